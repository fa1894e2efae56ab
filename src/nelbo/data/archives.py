"""Zip and tar archives of images as sources. Members are read into memory: none is ever written to disk."""

from __future__ import annotations

import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from functools import partial

from nelbo.data.errors import DataError, Skipped, reason_of
from nelbo.data.sources import (
    AbstractSource,
    Reader,
    SourceFile,
    Track,
    check_size,
    is_candidate,
    path_key,
)

_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError)


def _damaged(path: str, error: Exception) -> DataError:
    return DataError(
        f"cannot read the archive {path}: {reason_of(error)}; "
        "it is damaged, incomplete or of another kind than its suffix says: copy or pack it again"
    )


class ZipSource(AbstractSource):
    """The members of a zip archive; of two with one name the last counts.

    Args:
        path: The archive.
        track: The progress bar for hashing it.

    Raises:
        DataError: the archive is damaged.
    """

    kind = "zip"

    def __init__(self, path: str, track: Track) -> None:
        self._file = SourceFile(path, track)
        try:
            self._archive = zipfile.ZipFile(path)
        except _DAMAGE as error:
            raise _damaged(path, error) from error
        files = {info.filename: info for info in self._archive.infolist() if not info.is_dir()}
        self.names = sorted((name for name in files if is_candidate(name)), key=path_key)
        self.broken, self.num_ignored = [], len(files) - len(self.names)
        self._members = [files[name] for name in self.names]

    def fingerprint(self) -> str:
        """SHA-256 of the archive."""
        return self._file.fingerprint()

    def _read(self, member: zipfile.ZipInfo) -> bytes:
        check_size(member.file_size)
        return self._archive.read(member)

    def readers(self) -> Iterator[tuple[int, Reader]]:
        """In the order of the names; members are inflated in the thread that decodes."""
        for index, member in enumerate(self._members):
            yield index, partial(self._read, member)


class TarSource(AbstractSource):
    """The members of a tar archive, compressed or not; of two with one name the last counts.

    Args:
        path: The archive.
        track: The progress bar for hashing it.

    Raises:
        DataError: the archive is damaged.
    """

    kind = "tar"

    def __init__(self, path: str, track: Track) -> None:
        self._path = path
        self._file = SourceFile(path, track)
        files: dict[str, tarfile.TarInfo] = {}
        try:
            with tarfile.open(path) as archive:
                for member in archive:
                    if not member.isdir():
                        files[member.name] = member
        except _DAMAGE as error:
            raise _damaged(path, error) from error
        candidates = sorted((name for name in files if is_candidate(name)), key=path_key)
        self.num_ignored = len(files) - len(candidates)
        self.names = [name for name in candidates if files[name].isfile() or files[name].islnk()]
        self._offsets = {files[name].offset: index for index, name in enumerate(self.names)}
        self.broken = [
            Skipped(name, "not a regular file (links in archives are not followed)")
            for name in candidates
            if files[name].offset not in self._offsets
        ]

    def fingerprint(self) -> str:
        """SHA-256 of the archive."""
        return self._file.fingerprint()

    def readers(self) -> Iterator[tuple[int, Reader]]:
        """In the order of the archive, read as it goes by, so that a compressed one is inflated only once."""
        try:
            with tarfile.open(self._path) as archive:
                for member in archive:
                    if member.offset in self._offsets:
                        yield self._offsets[member.offset], _read_member(archive, member)
        except _DAMAGE as error:
            raise _damaged(self._path, error) from error


def _read_member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Reader:
    """Read a member now; its reader returns the bytes, or raises what went wrong."""
    try:
        check_size(member.size)
        file = archive.extractfile(member)
        raw = b"" if file is None else file.read()
    except (ValueError, KeyError, *_DAMAGE) as error:
        return partial(_fail, error)
    return partial(bytes, raw)


def _fail(error: Exception) -> bytes:
    raise error
