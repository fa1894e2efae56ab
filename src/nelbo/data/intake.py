"""From what the user typed to a source: which kind it is, and what to say when it is none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files

from nelbo.data.archives import TarSource, ZipSource
from nelbo.data.arrays import ArraySource
from nelbo.data.errors import DataError, printable
from nelbo.data.folder import FolderSource
from nelbo.data.sources import AbstractSource, Track

BUILTINS = {"emoji": "noto-emoji-64.zip"}

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")

ALLOWED = (
    "allowed are a folder of images (nested), a .zip or .tar (.tar.gz, .tar.xz, .tar.bz2) of them, "
    "a .npy or .npz of uint8 images, or builtin:emoji"
)


@contextmanager
def open_source(source: str, track: Track, num_threads: int) -> Iterator[AbstractSource]:
    """Find out what kind of source this is and open it.

    Args:
        source: A path, or builtin:NAME.
        track: The progress bar for hashing it.
        num_threads: How many files of a folder are read at a time.

    Yields:
        The source, its contents hashed.

    Raises:
        DataError: there is no such source, or it is of no kind that is known, or damaged.
    """
    scheme, _, name = source.partition(":")
    if scheme == "hf":
        raise DataError(
            f"{source!r}: Hugging Face data sets are not supported yet; save one to a folder. {ALLOWED}"
        )
    if scheme == "builtin":
        if name not in BUILTINS:
            raise DataError(
                f"there is no built-in set {source!r}; there is "
                + ", ".join(map("builtin:".__add__, BUILTINS))
            )
        with as_file(files("nelbo.data") / "builtin" / BUILTINS[name]) as path:
            yield ZipSource(str(path), track)
        return
    yield _open_path(source, track, num_threads)


def _open_path(source: str, track: Track, num_threads: int) -> AbstractSource:
    path = os.path.expanduser(source)
    if "\0" in path or not source or not os.path.exists(path):
        raise DataError(f"there is no {source!r} (looked at {os.path.abspath(path)!r}); {ALLOWED}")
    if os.path.isdir(path):
        return FolderSource(path, track, num_threads)
    if not os.path.isfile(path):
        raise DataError(f"{source!r} is neither a folder nor a regular file; {ALLOWED}")
    lower = path.lower()
    try:
        if lower.endswith(".zip"):
            return ZipSource(path, track)
        if lower.endswith(TAR_SUFFIXES):
            return TarSource(path, track)
        if lower.endswith((".npy", ".npz")):
            return ArraySource(path, track)
    except OSError as error:
        raise DataError(f"cannot read {printable(source)}: {error.strerror or error}") from error
    raise DataError(f"{source!r} is a file of no known kind; {ALLOWED}")
