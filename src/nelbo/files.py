"""Files that are written whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A place to write a file to that gets its name, ``path``, once it is whole, and is removed if it fails.

    The draft keeps the suffix, which tells Pillow and matplotlib the format.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".writing-{path.name}")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
