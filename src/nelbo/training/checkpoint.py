"""Checkpoints: a directory of safetensors and JSON that is either whole or not there. No pickle.

checkpoints/step-00012000/
    network.safetensors  ema.safetensors  optimizer.safetensors   tensors by name
    state.json                                                    step, images, seconds, …
    manifest.json                                                 format version, SHA-256 of each file
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

FORMAT = 1
Parts = Mapping[str, Mapping[str, Tensor]]


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names it and says what is wrong."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk whose files agree with its manifest.

    Attributes:
        path: its directory.
        state: what ``state.json`` holds.
    """

    path: Path
    state: dict[str, Any]

    def tensors(self, part: str) -> dict[str, Tensor]:
        """The tensors of one part, "network", "ema" or "optimizer", on the CPU.

        Raises:
            CheckpointError: if there is no such part.
        """
        try:
            return load_file(self.path / f"{part}.safetensors")
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{self.path}: cannot read {part}.safetensors: {error}") from error


def write(folder: Path, step: int, parts: Parts, state: Mapping[str, Any], *, keep: int) -> Path:
    """Write a checkpoint for this step, then remove all but the newest ``keep``.

    It is written beside its place, flushed to disk, and moved in whole, so that a crash at any moment leaves
    the older checkpoints as they were.

    Raises:
        CheckpointError: if it cannot be written, as on a full disk.
    """
    place = folder / f"step-{step:08d}"
    draft = folder / f".writing-{place.name}-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        for name, tensors in parts.items():
            contiguous = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
            save_file(contiguous, draft / f"{name}.safetensors")
        (draft / "state.json").write_text(json.dumps(dict(state), indent=2), encoding="utf-8")
        hashes = {file.name: _sha256(file) for file in sorted(draft.iterdir())}
        manifest = {"format": FORMAT, "sha256": hashes}
        (draft / "manifest.json").write_text(json.dumps(manifest, indent=2), encoding="utf-8")
        for file in [*draft.iterdir(), draft]:
            _flush(file)
        if place.exists():
            shutil.rmtree(place)
        draft.rename(place)
        _flush(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise CheckpointError(f"cannot write the checkpoint {place}: {error}") from error
    for old in _places(folder)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    for stale in folder.glob(".writing-*"):
        shutil.rmtree(stale, ignore_errors=True)
    return place


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that verifies, and what is wrong with those that were passed over."""
    problems: list[str] = []
    for place in _places(folder):
        try:
            return read(place), problems
        except CheckpointError as error:
            problems.append(str(error))
    return None, problems


def read(place: Path) -> Checkpoint:
    """Verify one checkpoint against its manifest.

    Raises:
        CheckpointError: if a file is missing or damaged, or the format is of a newer version.
    """
    try:
        manifest = json.loads((place / "manifest.json").read_text(encoding="utf-8"))
        version, hashes = manifest["format"], dict(manifest["sha256"])
    except FileNotFoundError as error:
        raise CheckpointError(f"{place} has no manifest.json: it is not a whole checkpoint") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{place}/manifest.json is damaged: {error}") from error
    if version != FORMAT:
        raise CheckpointError(
            f"{place} has format {version}, this nelbo reads {FORMAT}; update nelbo to use it"
        )
    for name, expected in hashes.items():
        file = place / Path(name).name
        if not file.is_file():
            raise CheckpointError(f"{place} lacks {name}")
        if _sha256(file) != expected:
            raise CheckpointError(f"{file} is damaged: its SHA-256 is not the manifest's")
    return Checkpoint(place, json.loads((place / "state.json").read_text(encoding="utf-8")))


def _places(folder: Path) -> list[Path]:
    """Checkpoint directories, newest first."""
    found = [p for p in folder.glob("step-*") if p.is_dir() and p.name[len("step-") :].isdigit()]
    return sorted(found, key=lambda place: int(place.name[len("step-") :]), reverse=True)


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
