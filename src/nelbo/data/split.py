"""The held-out split: a pure function of each image's content.

An image's hash, read as a number in [0, 1), is uniform; the image is held out if and only if it is below
a threshold. Exact duplicates have one number, so they never straddle the split; at a fixed threshold no image
changes sides when files are added. The threshold is chosen once, saved with the run, and used again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Split:
    """Two disjoint index sets that cover the store.

    Attributes:
        train: int64 (num_train,), increasing.
        held_out: int64 (num_held_out,), increasing.
    """

    train: np.ndarray
    held_out: np.ndarray


def hash_number(content_hash: str) -> float:
    """A content hash (hexadecimal, at least 13 digits) as a number in [0, 1): its first 52 bits, exactly."""
    return int(content_hash[:13], 16) / 2**52


def split_by_threshold(hashes: Sequence[str], threshold: float) -> Split:
    """The split in which image i is held out if and only if ``hash_number(hashes[i]) < threshold``.

    Args:
        hashes: One content hash per image.
        threshold: In [0, 1].

    Returns:
        The split; either side may be empty.

    Raises:
        ValueError: threshold outside [0, 1].
    """
    if not 0 <= threshold <= 1:
        raise ValueError(
            f"threshold must lie in [0, 1], got {threshold}; threshold_for() gives one that suits"
        )
    held_out = np.array([hash_number(h) for h in hashes], dtype=np.float64) < threshold
    return Split(train=np.flatnonzero(~held_out), held_out=np.flatnonzero(held_out))


def threshold_for(hashes: Sequence[str], fraction: float = 0.1, at_most: int = 1000) -> float:
    """The threshold that holds out about ``fraction`` of the images and no more than ``at_most``.

    With at least two distinct images, at least one is held out and at least one is not. This comes before
    ``at_most``: a picture that has more than ``at_most`` copies may be held out with all of them. With fewer
    than two distinct images nothing is held out.

    Args:
        hashes: One content hash per image, duplicates included.
        fraction: In (0, 1).
        at_most: At least 1; copies of an image count each.

    Returns:
        ``fraction``, or a number just above the last hash that is held out where a limit binds.

    Raises:
        ValueError: fraction or at_most out of range.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must lie strictly between 0 and 1, got {fraction}; 0.1 is usual")
    if at_most < 1:
        raise ValueError(f"at_most must be at least 1 image, got {at_most}")
    numbers, counts = np.unique([hash_number(h) for h in hashes], return_counts=True)
    if len(numbers) < 2:
        return 0.0
    below_fraction = int(np.searchsorted(numbers, fraction))
    within_limit = int(np.searchsorted(np.cumsum(counts), at_most, side="right"))
    num_held_out = min(max(min(below_fraction, within_limit), 1), len(numbers) - 1)
    if num_held_out == below_fraction:
        return fraction
    return math.nextafter(float(numbers[num_held_out - 1]), 1.0)
