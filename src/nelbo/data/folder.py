"""A folder of images, nested to any depth, as a source."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from nelbo.data.errors import DataError, Skipped, printable, reason_of
from nelbo.data.sources import AbstractSource, Reader, Track, check_size, is_candidate, path_key


class FolderSource(AbstractSource):
    """The regular files under a folder; links are followed, except a link to a folder that contains it.

    Args:
        root: The folder.
        track: The progress bar for hashing the files.
        num_threads: How many files are hashed at a time.

    Raises:
        DataError: the folder itself cannot be listed.
    """

    kind = "folder"

    def __init__(self, root: str, track: Track, num_threads: int) -> None:
        self._root = root
        self.names, self.broken, self.num_ignored = [], [], 0
        self._walk()
        self.names.sort(key=path_key)
        self.broken.sort(key=lambda skipped: path_key(skipped.name))
        self._digests = [b""] * len(self.names)
        with ThreadPoolExecutor(num_threads) as pool:
            hashed = pool.map(self._hash, range(len(self.names)))
            for _ in track(hashed, "reading", len(self.names)):
                pass

    def _walk(self) -> None:
        """Sort everything under the root into names, broken and ignored."""
        folders: list[tuple[str, tuple[tuple[int, int], ...]]] = [("", ())]
        while folders:
            folder, ancestors = folders.pop()
            try:
                here = os.stat(os.path.join(self._root, folder))
                entries = os.listdir(os.path.join(self._root, folder))
            except OSError as error:
                if not folder:
                    raise DataError(f"cannot list {printable(self._root)}: {reason_of(error)}") from error
                self.broken.append(Skipped(folder, f"a folder that cannot be listed: {reason_of(error)}"))
                continue
            identity = (here.st_dev, here.st_ino)
            if identity in ancestors:
                self.broken.append(Skipped(folder, "a link to a folder that contains it (a loop)"))
                continue
            for entry in entries:
                name = f"{folder}/{entry}" if folder else entry
                if self._is_folder_after_sorting(name):
                    folders.append((name, (*ancestors, identity)))

    def _is_folder_after_sorting(self, name: str) -> bool:
        """Whether a name is a folder to look into; if not, put it where it belongs."""
        path = os.path.join(self._root, name)
        try:
            mode = os.stat(path).st_mode
            if stat.S_ISDIR(mode):
                return not os.path.basename(name).startswith(".")
            reason = None if stat.S_ISREG(mode) else "not a regular file"
        except OSError as error:
            dangling = isinstance(error, FileNotFoundError) and os.path.islink(path)
            reason = "a link to nothing" if dangling else reason_of(error)
        if not is_candidate(name):
            self.num_ignored += 1
        elif reason is None:
            self.names.append(name)
        else:
            self.broken.append(Skipped(name, reason))
        return False

    def _read(self, index: int) -> bytes:
        with open(os.path.join(self._root, self.names[index]), "rb") as file:
            check_size(os.fstat(file.fileno()).st_size)
            raw = file.read()
        self._digests[index] = hashlib.sha256(raw).digest()
        return raw

    def _hash(self, index: int) -> None:
        try:
            self._read(index)
        except (OSError, ValueError) as error:
            self._digests[index] = hashlib.sha256(
                reason_of(error).encode("utf-8", "backslashreplace")
            ).digest()

    def fingerprint(self) -> str:
        """SHA-256 over every file's name and contents, as they were last read."""
        total = hashlib.sha256()
        for name, digest in zip(self.names, self._digests, strict=True):
            total.update(len(path_key(name)).to_bytes(8, "big") + path_key(name) + digest)
        for skipped in self.broken:
            total.update(
                b"broken"
                + path_key(skipped.name)
                + b"\0"
                + skipped.reason.encode("utf-8", "backslashreplace")
            )
        return total.hexdigest()

    def readers(self) -> Iterator[tuple[int, Reader]]:
        """In the order of the names; reading happens in the thread that decodes."""
        for index in range(len(self.names)):
            yield index, partial(self._read, index)
