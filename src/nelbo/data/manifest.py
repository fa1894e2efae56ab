"""A store's files: ``images.npy`` beside ``store.json``, and whether they agree."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nelbo.data.decode import IntakeOptions
from nelbo.data.errors import Skipped

FORMAT = 1
"""Part of every key; raise it when the layout, or what decoding gives, changes."""

IMAGES = "images.npy"
MANIFEST = "store.json"

_NUM_CHECKED = 16


@dataclass(frozen=True)
class Manifest:
    """What ``store.json`` says.

    Attributes:
        format: FORMAT when it was written.
        created_by: Version of nelbo that wrote it.
        source: What the user typed then.
        options: The intake options.
        names: N paths relative to the source.
        labels: N class indices, -1 for none.
        class_names: Empty if there are no classes.
        hashes: N content hashes.
        skipped: Files that could not be used.
    """

    format: int
    created_by: str
    source: str
    options: dict[str, Any]
    names: list[str]
    labels: list[int]
    class_names: list[str]
    hashes: list[str]
    skipped: list[Skipped]


def content_hash(pixels: np.ndarray) -> str:
    """SHA-256 (hexadecimal) of an image's shape and levels.

    Args:
        pixels: uint8 (C, H, W).
    """
    shape = "x".join(map(str, pixels.shape))
    return hashlib.sha256(f"{shape}:".encode() + pixels.tobytes()).hexdigest()


def store_key(kind: str, fingerprint: str, options: IntakeOptions) -> str:
    """The name of the store that these contents give with these options: 32 hexadecimal digits."""
    given = json.dumps([FORMAT, kind, fingerprint, asdict(options)], sort_keys=True)
    return hashlib.sha256(given.encode()).hexdigest()[:32]


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``store.json``; names that are not UTF-8 survive as escapes."""
    (folder / MANIFEST).write_text(json.dumps(asdict(manifest)), encoding="ascii")


def read_store(folder: Path) -> tuple[Manifest, np.ndarray] | None:
    """Open a store's two files and check that they agree.

    The shapes and sizes must, and so must the hashes of a few images spread over the file.

    Args:
        folder: The store.

    Returns:
        The manifest and the images, uint8 (N, C, H, W), memory-mapped and read-only; None if there is no
        store here or it is damaged.
    """
    try:
        fields = json.loads((folder / MANIFEST).read_text(encoding="ascii"))
        fields["skipped"] = [Skipped(**skipped) for skipped in fields["skipped"]]
        manifest = Manifest(**fields)
        images = np.load(folder / IMAGES, mmap_mode="r", allow_pickle=False)
        height, width = manifest.options["image_size"]
        expected = (len(manifest.names), manifest.options["channels"], height, width)
    except (OSError, ValueError, TypeError, KeyError, EOFError):
        return None
    counts = {len(manifest.names), len(manifest.labels), len(manifest.hashes)}
    if manifest.format != FORMAT or len(counts) != 1 or images.dtype != np.uint8 or images.shape != expected:
        return None
    size = images.offset + images.nbytes if isinstance(images, np.memmap) else -1
    if not len(images) or (folder / IMAGES).stat().st_size != size:
        return None
    checked = {round(i) for i in np.linspace(0, len(images) - 1, _NUM_CHECKED)}
    if any(content_hash(images[i]) != manifest.hashes[i] for i in checked):
        return None
    return manifest, images
