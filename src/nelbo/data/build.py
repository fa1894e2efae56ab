"""The one pass that reads, decodes, converts and resizes every image of a source into a store."""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from nelbo.data.cache import building_folder, publish, reserve, unwritable
from nelbo.data.decode import IntakeOptions, decode, decode_array
from nelbo.data.errors import DataError, Skipped, listed, printable, reason_of
from nelbo.data.manifest import (
    FORMAT,
    IMAGES,
    Manifest,
    content_hash,
    read_store,
    store_key,
    write_manifest,
)
from nelbo.data.sources import AbstractSource, Reader, Track, folder_labels, path_key

_MAX_THREADS = 16
_IN_FLIGHT_PER_THREAD = 8


def num_threads() -> int:
    """Threads to decode with: Pillow lets go of the interpreter lock while it decodes and resizes."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(available, _MAX_THREADS)


def build(source: AbstractSource, typed: str, options: IntakeOptions, stores: Path, track: Track) -> Path:
    """Decode a source into a new store.

    Args:
        source: The images.
        typed: What the user calls it.
        options: Size, channels, fit, background.
        stores: The folder of all stores.
        track: The progress bar.

    Returns:
        The store's folder. Its name is the key of what was decoded, even if files changed after the source
        was opened.

    Raises:
        DataError: no image is good, the cache cannot be written to, or an archive changed while it was read.
    """
    if not source.names:
        raise _none_good(source, typed, source.broken)
    shape = (len(source.names), options.channels, *options.image_size)
    with building_folder(stores, int(np.prod(shape, dtype=np.int64))) as folder:
        try:
            images = np.lib.format.open_memmap(folder / IMAGES, mode="w+", dtype=np.uint8, shape=shape)
            reserve(folder / IMAGES)
            hashes, failed = _decode_all(source, options, images, track)
            good = [index for index, content in enumerate(hashes) if content]
            skipped = sorted([*source.broken, *failed], key=lambda bad: path_key(bad.name))
            if not good:
                raise _none_good(source, typed, skipped)
            if len(good) < len(images):
                images = _keep_rows(folder, images, good)
            images.flush()
            names = [source.names[index] for index in good]
            labels, class_names = _labels(source, names, good)
            manifest = Manifest(
                format=FORMAT,
                created_by=_version(),
                source=typed,
                options=asdict(options),
                names=names,
                labels=labels.tolist(),
                class_names=class_names,
                hashes=[hashes[index] for index in good],
                skipped=skipped,
            )
            write_manifest(folder, manifest)
            final = stores / store_key(source.kind, source.fingerprint(), options)
            publish(folder, final, lambda path: read_store(path) is not None)
        except OSError as error:
            raise unwritable(stores, error) from error
    return final


def _decode_all(
    source: AbstractSource, options: IntakeOptions, images: np.ndarray, track: Track
) -> tuple[list[str], list[Skipped]]:
    """Decode every candidate into its row; its content hash, "" for bad ones, and the bad ones."""
    hashes, failed = [""] * len(images), []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        for index, result in track(_results(source, options), "decoding", len(images)):
            if isinstance(result, str):
                failed.append(Skipped(source.names[index], result))
            else:
                images[index], hashes[index] = result
    return hashes, failed


def _results(
    source: AbstractSource, options: IntakeOptions
) -> Iterator[tuple[int, tuple[np.ndarray, str] | str]]:
    """Index and result of every candidate, decoded in threads, with a bounded number in flight."""
    threads = num_threads()
    waiting: deque[tuple[int, Future[tuple[np.ndarray, str] | str]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for index, read in source.readers():
            waiting.append((index, pool.submit(_decode_one, read, options)))
            if len(waiting) >= threads * _IN_FLIGHT_PER_THREAD:
                first, future = waiting.popleft()
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()


def _decode_one(read: Reader, options: IntakeOptions) -> tuple[np.ndarray, str] | str:
    """One image's pixels and content hash, or the reason why there are none."""
    try:
        raw = read()
        pixels = decode(raw, options) if isinstance(raw, bytes) else decode_array(raw, options)
    except Exception as error:  # Pillow's plugins raise whatever their parsers happen to
        return reason_of(error)
    return pixels, content_hash(pixels)


def _keep_rows(folder: Path, images: np.ndarray, good: list[int]) -> np.memmap:
    """Replace ``images.npy`` by its good rows only."""
    part = folder / "good.npy"
    kept = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=(len(good), *images.shape[1:]))
    reserve(part)
    for row, index in enumerate(good):
        kept[row] = images[index]
    os.replace(part, folder / IMAGES)
    return kept


def _labels(source: AbstractSource, names: list[str], good: list[int]) -> tuple[np.ndarray, list[str]]:
    if source.labels is not None and source.label_names is not None:
        return source.labels[good], source.label_names
    return folder_labels(names, unwrap=source.kind in ("zip", "tar"))


def _none_good(source: AbstractSource, typed: str, skipped: list[Skipped]) -> DataError:
    message = f"no usable image in {printable(typed)}: "
    message += f"{len(skipped):,} files could not be used" if skipped else "it holds no image files"
    if skipped:
        message += f" ({listed([str(bad) for bad in skipped])})"
    if source.num_ignored:
        message += f"; {source.num_ignored:,} other files are not images"
    return DataError(
        f"{message}. Point it at PNG, JPEG, WebP, GIF, BMP or TIFF files, in folders to any depth"
    )


def _version() -> str:
    try:
        return f"nelbo {version('nelbo')}"
    except PackageNotFoundError:
        return "nelbo (not installed)"
