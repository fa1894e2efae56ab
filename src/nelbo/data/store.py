"""The store: every image of a source as one memory-mapped uint8 array, decoded once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nelbo.data.build import build, num_threads
from nelbo.data.cache import stores_folder
from nelbo.data.decode import IntakeOptions
from nelbo.data.errors import DataError, Skipped, listed, printable
from nelbo.data.intake import open_source
from nelbo.data.manifest import read_store, store_key
from nelbo.data.sources import Track
from nelbo.data.split import Split, split_by_threshold


@dataclass(frozen=True, eq=False)
class Store:
    """N images of one size.

    Attributes:
        images: uint8 (N, C, H, W), memory-mapped, read-only, sorted by name.
        labels: int64 (N,), indices into class_names, -1 for none.
        class_names: Empty if the source has no classes.
        names: N paths relative to the source.
        hashes: N content hashes: SHA-256 of shape and levels, equal for exact duplicates.
        skipped: Files that could not be used, by name.
        path: The store's folder in the cache.
        num_ignored: Files that were obviously not meant as images.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: list[str]
    names: list[str]
    hashes: list[str]
    skipped: list[Skipped]
    path: Path
    num_ignored: int = 0

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_duplicates(self) -> int:
        """Images whose pixels another image before them has already."""
        return len(self.hashes) - len(set(self.hashes))

    def labels_among(self, class_names: Sequence[str]) -> np.ndarray:
        """The labels as indices into other class names, int64 (N,): −1 for none, or for a class not among them."""
        index = {name: i for i, name in enumerate(class_names)}
        return np.asarray(np.array([*(index.get(name, -1) for name in self.class_names), -1])[self.labels])

    def split(self, threshold: float) -> Split:
        """The images whose hash number is below the threshold are held out; see ``threshold_for``.

        Args:
            threshold: In [0, 1]; what the run saved.

        Returns:
            Indices .train and .held_out, int64.

        Raises:
            ValueError: threshold outside [0, 1].
        """
        return split_by_threshold(self.hashes, threshold)

    def describe(self) -> str:
        """What was found, on one line; what was skipped and why, on a second."""
        count, channels, height, width = self.images.shape
        found = f"{count:,} image{'s' * (count != 1)}, {channels}×{height}×{width}"
        if self.class_names:
            found += (
                f", {len(self.class_names):,} classes ({listed([printable(c) for c in self.class_names])})"
            )
        if self.num_duplicates:
            found += f", {self.num_duplicates:,} exact duplicate{'s' * (self.num_duplicates != 1)}"
        if self.num_ignored:
            found += f", {self.num_ignored:,} file{'s' * (self.num_ignored != 1)} ignored"
        if self.skipped:
            found += f"\n{len(self.skipped):,} skipped: {listed([str(bad) for bad in self.skipped])}"
        return found


def open_store(
    source: str,
    options: IntakeOptions = IntakeOptions(),  # noqa: B008 (frozen)
    *,
    cache: Path | None = None,
    progress: bool = True,
) -> Store:
    """Open a source of images, decoding it the first time.

    The store is found by the names and contents of the files and by the options, so unchanged data opens at
    once and any change makes a new store. A damaged store is built again.

    Args:
        source: A folder (nested), a .zip or .tar(.gz, .xz, .bz2), a uint8 .npy or .npz, or "builtin:emoji".
        options: Size, channels, fit, background.
        cache: Where stores are kept; $NELBO_CACHE, else $XDG_CACHE_HOME/nelbo, else ~/.cache/nelbo.
        progress: Show progress bars on standard error.

    Returns:
        The store: at least one image. Bad files are in .skipped.

    Raises:
        DataError: no such source, nothing usable in it, or the cache cannot be written to.
    """
    stores = stores_folder(cache)
    with _progress_bars(progress) as track, open_source(source, track, num_threads()) as opened:
        path = stores / store_key(opened.kind, opened.fingerprint(), options)
        found = read_store(path)
        if found is None:
            path = build(opened, source, options, stores, track)
            found = read_store(path)
        if found is None:
            raise DataError(
                f"the store {path} was damaged as soon as it was written; check the disk, then run again"
            )
        manifest, images = found
        return Store(
            images=images,
            labels=np.array(manifest.labels, dtype=np.int64),
            class_names=manifest.class_names,
            names=manifest.names,
            hashes=manifest.hashes,
            skipped=manifest.skipped,
            path=path,
            num_ignored=opened.num_ignored,
        )


@contextmanager
def _progress_bars(shown: bool) -> Iterator[Track]:
    """A function that wraps an iterable in a bar that goes away when done; without bars, in nothing."""
    if not shown:
        yield lambda items, description, total: items
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:

        def track(items: Iterable[Any], description: str, total: int) -> Iterable[Any]:
            return bars.track(items, total=total, description=description)

        yield track
