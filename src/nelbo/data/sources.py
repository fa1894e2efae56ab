"""A user's source of images, whatever its kind, as a list of names and a way to read each.

The kinds are in ``folder.py``, ``archives.py`` and ``arrays.py``; here is what they share: the interface,
which names are worth reading, and classes from folder names.
"""

from __future__ import annotations

import abc
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from nelbo.data.errors import DataError, Skipped

Track = Callable[[Iterable[Any], str, int], Iterable[Any]]
"""Wraps an iterable in a progress bar: (iterable, description, total) → the same items."""

Reader = Callable[[], bytes | np.ndarray]
"""Reads one image: a file's bytes, or pixels uint8 (H, W), (H, W, 3) or (H, W, 4)."""

MAX_FILE_BYTES = 1 << 30
"""A single image file larger than this is skipped unread."""

_CHUNK = 1 << 20

_NOT_IMAGE = re.compile(
    r"""
    .*\.(txt|jsonl?|csv|tsv|md|rst|html?|xml|ya?ml|toml|ini|cfg|log|pdf|docx?|xlsx?|db|sqlite|mat|pkl|npy|npz|pt|pth
        |safetensors|parquet|arrow|py|pyc|ipynb|js|css|sh|bat|lnk|url|mp3|wav|mp4|m4v|mov|avi|mkv|webm|xmp|aae|md5
        |sha256|bak|tmp|part)
    |readme|licen[sc]e|copying|notice|changelog|authors|makefile|sha256sums|md5sums
    """,
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
_NOT_IMAGE_FOLDERS = frozenset({"__macosx", "@eadir", "$recycle.bin"})


class AbstractSource(abc.ABC):
    """Images by name, sorted by the bytes of their path.

    Attributes:
        kind: "folder", "zip", "tar" or "array".
        names: The candidates: path relative to the source, "/" between the parts.
        broken: Candidates that cannot even be read.
        num_ignored: Files that were obviously not meant as images.
        label_names: Class names that the source itself gives; None to take them from the folders.
        labels: int64 (len(names),), -1 for none; None exactly when label_names is.
    """

    kind: str
    names: list[str]
    broken: list[Skipped]
    num_ignored: int
    labels: np.ndarray | None = None
    label_names: list[str] | None = None

    @abc.abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 (hexadecimal) of the names and contents as last read.

        Raises:
            DataError: the file changed while it was being read.
        """

    @abc.abstractmethod
    def readers(self) -> Iterator[tuple[int, Reader]]:
        """Every candidate once, as (index into names, reader), in the order that is cheap to read.

        Readers may run in other threads, and raise on a bad file.
        """


class SourceFile:
    """A source that is one file: hashed as a whole, and watched for changes while it is read.

    Args:
        path: The file.
        track: The progress bar for hashing it.
    """

    def __init__(self, path: str, track: Track) -> None:
        self.path = path
        self._version = self._stat()
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            chunks = iter(lambda: file.read(_CHUNK), b"")
            for chunk in track(chunks, "reading", -(-self._version[0] // _CHUNK)):
                digest.update(chunk)
        self._digest = digest.hexdigest()

    def _stat(self) -> tuple[int, int]:
        status = os.stat(self.path)
        return status.st_size, status.st_mtime_ns

    def fingerprint(self) -> str:
        """The file's SHA-256; raises DataError if it changed since."""
        if self._stat() != self._version:
            raise DataError(f"{self.path} changed while it was being read; run again when it is complete")
        return self._digest


def path_key(name: str) -> bytes:
    """What names are sorted by: the bytes of the relative path."""
    return name.encode("utf-8", "surrogateescape")


def is_candidate(name: str) -> bool:
    """Whether a file is worth opening as an image: false for hidden files, documents, tables, videos.

    A name that says nothing (no suffix, or an unknown one) is worth it: bad ones are then reported, not lost.
    """
    *folders, last = [part for part in name.split("/") if part not in ("", ".", "..")] or [""]
    if not last or any(part.startswith(".") for part in (*folders, last)):
        return False
    if any(folder.lower() in _NOT_IMAGE_FOLDERS for folder in folders):
        return False
    return _NOT_IMAGE.fullmatch(last) is None


def check_size(num_bytes: int) -> None:
    """Refuse to read a file that is too large to be one image.

    Raises:
        ValueError: more than MAX_FILE_BYTES.
    """
    if num_bytes > MAX_FILE_BYTES:
        raise ValueError(f"{num_bytes:,} bytes: too large for one image (at most {MAX_FILE_BYTES:,})")


def folder_labels(names: Sequence[str], *, unwrap: bool) -> tuple[np.ndarray, list[str]]:
    """Classes from first-level folder names, where images lie in at least two of them.

    Args:
        names: Relative paths of the good images.
        unwrap: Look inside a single folder that wraps everything, as archives often have.

    Returns:
        labels, int64 (N,), -1 for images outside any folder; and class names, sorted. Without classes, all -1
        and an empty list.
    """
    folders = [[part for part in name.split("/")[:-1] if part not in ("", ".", "..")] for name in names]
    while unwrap and folders and all(folders) and len({parts[0] for parts in folders}) == 1:
        folders = [parts[1:] for parts in folders]
    firsts = [parts[0] if parts else None for parts in folders]
    class_names = sorted({first for first in firsts if first is not None}, key=path_key)
    if len(class_names) < 2:
        return np.full(len(names), -1, dtype=np.int64), []
    index: dict[str | None, int] = {name: i for i, name in enumerate(class_names)}
    return np.array([index.get(first, -1) for first in firsts], dtype=np.int64), class_names
