"""Where stores lie on disk, and how one appears there: whole, or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nelbo.data.errors import DataError, reason_of

_BUILDING = ".building-"
_ABANDONED_AFTER_S = 2 * 24 * 3600


def stores_folder(cache: Path | None) -> Path:
    """The folder of all stores: under ``cache``, $NELBO_CACHE, $XDG_CACHE_HOME/nelbo or ~/.cache/nelbo."""
    if cache is None:
        own, shared = os.environ.get("NELBO_CACHE"), os.environ.get("XDG_CACHE_HOME")
        cache = Path(own) if own else Path(shared or "~/.cache") / "nelbo"
    return cache.expanduser().absolute() / "stores"


@contextmanager
def building_folder(stores: Path, num_bytes: int) -> Iterator[Path]:
    """A new folder beside the stores to build one in; whatever is left in it afterwards is removed.

    Args:
        stores: The folder of all stores, made if need be.
        num_bytes: Space that the store will take.

    Yields:
        The folder, empty.

    Raises:
        DataError: the cache cannot be written to, or the disk has not enough space.
    """
    folder = stores / f"{_BUILDING}{uuid.uuid4().hex}"
    try:
        stores.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(stores)
        free = shutil.disk_usage(stores).free
        folder.mkdir()
    except OSError as error:
        raise unwritable(stores, error) from error
    try:
        if num_bytes > free:
            raise DataError(
                f"the store takes {num_bytes / 1e9:.2f} GB, and {stores} has {free / 1e9:.2f} GB free; "
                "make room, choose a smaller image size, or set NELBO_CACHE to a folder on a larger disk"
            )
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def unwritable(stores: Path, error: OSError) -> DataError:
    """The error for a cache folder that cannot be written to."""
    return DataError(
        f"cannot write to the cache folder {stores}: {reason_of(error)}; "
        "set NELBO_CACHE to a folder that you may write to, with room for the decoded images"
    )


def reserve(path: Path) -> None:
    """Allocate a sparse file's space now, so that a full disk is an error here, not a dead process later."""
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                    raise


def publish(built: Path, final: Path, is_whole: Callable[[Path], bool]) -> None:
    """Give a finished store its name, in one step.

    If another process was first, its store stays (the contents are the same) unless it is damaged.

    Args:
        built: The folder it was built in, every file in it complete.
        final: Its name.
        is_whole: Says whether a store that lies at a path is undamaged.

    Raises:
        OSError: the file system refuses.
    """
    for path in (*built.iterdir(), built):
        _sync(path)
    while not _renamed(built, final):
        if is_whole(final):
            return
        _remove(final)
    _sync(final.parent)


def _renamed(built: Path, final: Path) -> bool:
    """Rename, or say that something has the name already."""
    try:
        os.rename(built, final)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            return False
        raise
    return True


def _remove(path: Path) -> None:
    """Move a damaged store out of the way at once, then delete it."""
    aside = path.with_name(f"{_BUILDING}{uuid.uuid4().hex}")
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return
    if aside.is_dir():
        shutil.rmtree(aside, ignore_errors=True)
    else:
        aside.unlink()


def _remove_abandoned(stores: Path) -> None:
    """Delete what killed processes left behind: nothing in it changed for two days."""
    for folder in stores.glob(f"{_BUILDING}*"):
        try:
            latest = max(os.stat(path).st_mtime for path in (folder, *folder.iterdir()))
        except OSError:
            continue
        if time.time() - latest > _ABANDONED_AFTER_S:
            shutil.rmtree(folder, ignore_errors=True)


def _sync(path: Path) -> None:
    """Force a file's contents or a folder's entries to disk; Windows cannot do the latter."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
