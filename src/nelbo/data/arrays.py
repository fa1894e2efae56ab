"""uint8 arrays in .npy and .npz files as sources."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np

from nelbo.data.errors import DataError, reason_of
from nelbo.data.sources import AbstractSource, Reader, SourceFile, Track

MAX_CLASSES = 65536

_ALLOWED = "allowed are uint8 arrays (N, H, W, C), (N, C, H, W) with C = 1, 3 or 4, or (N, H, W)"


class ArraySource(AbstractSource):
    """The images of one array, named by their index.

    A .npz holds the images under "images", "arr_0" or its only key; optional are integer class labels (N,),
    -1 for none, under "labels", and names for them (K,) under "class_names".

    Args:
        path: A .npy or .npz file. Pickled objects are never loaded.
        track: The progress bar for hashing it.

    Raises:
        DataError: damaged, not uint8, a shape that is none of the allowed ones or could be two of them, or
            labels that do not fit.
    """

    kind = "array"

    def __init__(self, path: str, track: Track) -> None:
        self._file = SourceFile(path, track)
        try:
            arrays = _load(path)
        except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"cannot read {path}: {reason_of(error)}; {_ALLOWED}, written by numpy.save or numpy.savez"
            ) from error
        self._images = _channels_last(arrays["images"], path)
        width = len(str(max(len(self._images) - 1, 0)))
        self.names = [f"{index:0{width}d}" for index in range(len(self._images))]
        self.broken, self.num_ignored = [], 0
        if "labels" in arrays:
            self.labels, self.label_names = _labels(arrays, len(self.names), path)

    def fingerprint(self) -> str:
        """SHA-256 of the file."""
        return self._file.fingerprint()

    def readers(self) -> Iterator[tuple[int, Reader]]:
        """In the order of the array."""
        for index in range(len(self._images)):
            yield index, partial(self._images.__getitem__, index)


def _load(path: str) -> dict[str, np.ndarray]:
    """The file's arrays under "images", "labels", "class_names"."""
    loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return {"images": loaded}
    with loaded:
        others = [key for key in loaded.files if key not in ("labels", "class_names")]
        key = next((key for key in ("images", "arr_0") if key in others), None)
        if key is None and len(others) == 1:
            key = others[0]
        if key is None:
            raise DataError(f"{path} holds {loaded.files}; name the array of images 'images' ({_ALLOWED})")
        arrays = {"images": loaded[key]}
        arrays |= {name: loaded[name] for name in ("labels", "class_names") if name in loaded.files}
        return arrays


def _channels_last(images: np.ndarray, path: str) -> np.ndarray:
    """The images as (N, H, W, C) or (N, H, W): a view."""
    given = f"{path} holds {images.dtype} {images.shape}"
    if images.dtype != np.uint8:
        raise DataError(
            f"{given}; {_ALLOWED}: convert it, for numbers in [0, 1] by (255 * x).round().astype('uint8')"
        )
    counts = (1, 3, 4)
    if images.ndim == 3:
        if images.shape[2] in counts:
            raise DataError(
                f"{given}, which could be one picture or many; {_ALLOWED}: reshape one picture to x[None]"
            )
        return images
    if images.ndim != 4:
        raise DataError(f"{given}; {_ALLOWED}")
    first, last = images.shape[1] in counts, images.shape[3] in counts
    if first == last:
        which = "could be (N, C, H, W) or (N, H, W, C)" if first else "has no axis for 1, 3 or 4 channels"
        raise DataError(
            f"{given}, which {which}; {_ALLOWED}: transpose it, or save the pictures as PNG files"
        )
    images = images.transpose(0, 2, 3, 1) if first else images
    return images[..., 0] if images.shape[3] == 1 else images


def _labels(arrays: Mapping[str, np.ndarray], num_images: int, path: str) -> tuple[np.ndarray, list[str]]:
    labels = arrays["labels"]
    given = f"{path} holds labels {labels.dtype} {labels.shape}"
    if labels.shape != (num_images,) or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"{given}; allowed are integers ({num_images},), one per image, -1 for none")
    if num_images and (labels.min() < -1 or labels.max() >= MAX_CLASSES):
        raise DataError(f"{given} from {labels.min()} to {labels.max()}; allowed are -1..{MAX_CLASSES - 1}")
    num_classes = int(labels.max()) + 1 if num_images else 0
    names = [str(name) for name in arrays.get("class_names", np.arange(num_classes)).tolist()]
    if len(names) < num_classes:
        raise DataError(
            f"{given} up to {num_classes - 1}, but only {len(names)} class_names; give one per class"
        )
    return labels.astype(np.int64), names
