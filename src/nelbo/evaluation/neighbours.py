"""Is the model memorising: how close its samples come to training images, beside how close new images come.

The distance of two images is the root mean squared difference of their values, in levels (0..255). It is that of
the pixels, which is usual and plain, and has limits: a copy that is shifted by a pixel or two, or in other colours,
is far away, and an almost empty image is near to everything. Two things mend the second and temper the first:

- An image is judged by its ratio r = d(nearest) / mean d(the 50 nearest), after Carlini et al. 2023 ("Extracting
  training data from diffusion models"): near 1 where nothing stands out, near 0 for a copy.
- What ratio is small is learnt from held-out images, which come from the same source and bring its variants, series
  and near-duplicates. A sample is suspicious if its ratio is below the m-th smallest of n held-out images' ratios,
  m ≈ n/100: were the samples new images too, each would be so with probability m / (n + 1), whatever the data are.
  Below 0.1 it is suspicious in any case; m is then one more than the held-out images that are below it too.
"""

import hashlib
import math
from dataclasses import dataclass

import numpy as np

_NUM_NEIGHBOURS = 50
_RATES = (0.01, 0.1)  # of suspicious images among new ones
_COPY = 0.1  # the ratio of what looks like a copy in any data
_SIGNIFICANT = 0.01
_FEW = 20
_EXACT = 1024  # products of two numbers in −128..127 whose sums float32 holds exactly: 2^10 · 2^14 = 2^24


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The nearest reference of each of N queries.

    Attributes:
        indices: int64 (N,), places in the references; the first of several that are as near.
        distances: float64 (N,), root mean squared difference per value, in levels, 0..255.
        mirrored: bool (N,), whether it is the reference's mirror image that is so near.
    """

    indices: np.ndarray
    distances: np.ndarray
    mirrored: np.ndarray


@dataclass(frozen=True, eq=False)
class Memorisation:
    """How close N samples come to the training images, beside n held-out images.

    Attributes:
        nearest: each sample's nearest training image.
        ratios: float64 (N,), d(nearest) / mean d(50 nearest, or all if fewer), in [0, 1]; small is suspicious.
        held_out_ratios: float64 (n,), the same of the held-out images.
        suspicious: bool (N,), nearer to a training image, by the ratio, than about 99 % of new images are; or
            than 90 %, where only their count is out of proportion.
        num_suspicious: how many.
        expected: how many there would be by chance, on average, were the samples new images; N if n = 0.
        p_value: the chance of so many, at 99 % or at 90 %, were the samples new images; doubled, as there are
            two counts. 1 if n = 0.
        sentence: the same in plain words.
    """

    nearest: Neighbours
    ratios: np.ndarray
    held_out_ratios: np.ndarray
    suspicious: np.ndarray
    num_suspicious: int
    expected: float
    p_value: float
    sentence: str


def nearest(
    queries: np.ndarray,
    references: np.ndarray,
    *,
    among: np.ndarray | None = None,
    flips: bool = False,
    batch_size: int | None = None,
) -> Neighbours:
    """Find the nearest reference of each query, exactly, by comparing all with all.

    Args:
        queries: uint8 (N, C, H, W).
        references: uint8 (M, C, H, W), memory-mapped or not; read in batches.
        among: the references to compare with, int (K,), K ≥ 1; all of them if None.
        flips: whether a reference's mirror image counts too.
        batch_size: images of each kind compared at a time, at least 1: memory and speed, not the result. As many
            as 32 MiB hold if None, and no more than 1024.

    Returns:
        The nearest; ``indices`` are places in ``references``, whatever ``among`` is.

    Raises:
        ValueError: if the images are not of one kind and size, there is no reference, or no batch.
    """
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch size is {batch_size}; give at least 1")
    rows = _checked(queries, references, among)
    indices, distances, mirrored = _k_nearest(queries, references, rows, 1, flips, batch_size)
    return Neighbours(indices[:, 0], distances[:, 0], mirrored[:, 0])


def memorisation(
    samples: np.ndarray,
    held_out: np.ndarray,
    train: np.ndarray,
    *,
    among: np.ndarray | None = None,
    flips: bool = False,
) -> Memorisation:
    """Judge whether samples are copies of training images.

    Exact duplicates in training count once: else a copy of one would have many as near and a ratio near 1.

    Args:
        samples: uint8 (N, C, H, W), N ≥ 1; what the model drew.
        held_out: uint8 (n, C, H, W), from the same source, not trained on. Fewer than 20 give no verdict.
        train: uint8 (M, C, H, W), memory-mapped or not.
        among: which of ``train`` were trained on, int (K,), K ≥ 1; all of them if None.
        flips: whether training mirrored images.

    Returns:
        The verdict and what it rests on; ``nearest.indices`` are places in ``train``.

    Raises:
        ValueError: if the images are not of one kind and size, or there is no sample or no training image.
    """
    rows = _distinct(train, _checked(samples, train, among), flips)
    _checked(held_out, train, among)
    if len(samples) == 0:
        raise ValueError("there is no sample to judge; draw some with `nelbo sample`")
    num, k = len(samples), min(_NUM_NEIGHBOURS, len(rows))
    queries = np.concatenate([samples, held_out])
    indices, distances, mirrored = _k_nearest(queries, train, rows, k, flips, None)
    means = distances.mean(axis=1)
    ratios = np.divide(distances[:, 0], means, out=np.zeros_like(means), where=means > 0)
    found = Neighbours(indices[:num, 0], distances[:num, 0], mirrored[:num, 0])
    return _judged(found, ratios[:num], ratios[num:])


def _judged(found: Neighbours, ratios: np.ndarray, held_out_ratios: np.ndarray) -> Memorisation:
    """The verdict on N ratios (N,) beside those of n held-out images (n,)."""
    num, num_new = len(ratios), len(held_out_ratios)
    thresholds = [_threshold(held_out_ratios, rate) for rate in _RATES]
    below = [ratios < threshold for threshold in thresholds]
    ranks = [1 + int((held_out_ratios < threshold).sum()) for threshold in thresholds]
    chances = [2 * _tail(int(b.sum()), num, rank, num_new) for b, rank in zip(below, ranks)]
    significant = [chance < _SIGNIFICANT for chance in chances]
    chosen = 1 if significant[1] and not significant[0] else 0

    suspicious, rate = below[chosen], ranks[chosen] / (num_new + 1)
    count = int(suspicious.sum())
    sentence = _closeness(count, num, rate) + ": "
    if num_new == 0:
        sentence = "No picture was held out to show how close a new one comes: copying cannot be judged."
    elif num_new < _FEW:
        held_out = f"{num_new} {'picture was' if num_new == 1 else 'pictures were'} held out"
        sentence += f"but only {held_out}, and with fewer than {_FEW} that says little."
    elif significant[0]:
        sentence += "the model copies."
    elif significant[1]:
        sentence += "the model keeps too close to its training pictures."
    elif count:
        sentence += f"it may be chance; look at {'it' if count == 1 else 'them'}."
    else:
        sentence += "no sign of copying."
    chance = min(1.0, *chances)
    return Memorisation(found, ratios, held_out_ratios, suspicious, count, num * rate, chance, sentence)


def _threshold(held_out_ratios: np.ndarray, rate: float) -> float:
    """The ratio below which about ``rate`` of new images are, and below which anything looks like a copy."""
    rank = max(1, math.floor(rate * (len(held_out_ratios) + 1)))
    return float(np.sort(held_out_ratios)[rank - 1 : rank].max(initial=_COPY))


def _closeness(count: int, num: int, rate: float) -> str:
    """The count in words, beside what chance would bring."""
    who = (
        f"{count:,} of {num:,} samples {'is' if count == 1 else 'are'}" if count else f"No sample of {num} is"
    )
    expected = f"{num * rate:,.1f}" if num * rate >= 1 else f"{num * rate:.1g}"
    most = f"{100 * (1 - rate):.3g} % of new pictures are"
    return f"{who} closer to a training picture than {most} ({expected} would be chance)"


def _tail(count: int, num: int, rank: int, num_new: int) -> float:
    """P(at least ``count`` of ``num`` numbers lie below the rank-th smallest of ``num_new`` exchangeable others).

    They do if, of the first count + rank − 1 of all in order, at most rank − 1 are others (hypergeometric). For a
    threshold that was fixed beforehand, with rank − 1 others below it, this is Fisher's exact test.
    """
    drawn = count + rank - 1
    ways = sum(math.comb(num_new, others) * math.comb(num, drawn - others) for others in range(rank))
    return ways / math.comb(num + num_new, drawn)


def _checked(queries: np.ndarray, references: np.ndarray, among: np.ndarray | None) -> np.ndarray:
    """The places of the references to compare with."""
    for images in (queries, references):
        if images.dtype != np.uint8 or images.ndim != 4:
            raise ValueError(
                f"images must be uint8 (N, C, H, W), got {images.dtype} {images.shape}; give levels 0..255"
            )
    if queries.shape[1:] != references.shape[1:]:
        raise ValueError(
            f"images of shape {queries.shape[1:]} cannot be compared with images of shape {references.shape[1:]}; "
            "give both one size and number of channels"
        )
    rows = np.arange(len(references))[slice(None) if among is None else among]
    if len(rows) == 0:
        raise ValueError("there is no image to compare with; give at least 1")
    return rows


def _distinct(images: np.ndarray, rows: np.ndarray, flips: bool) -> np.ndarray:
    """The first of the rows with each content; an image and its mirror image are one if ``flips``."""
    first: dict[bytes, int] = {}
    for row in rows.tolist():
        content = images[row].tobytes()
        if flips:
            content = min(content, images[row, :, :, ::-1].tobytes())
        first.setdefault(hashlib.blake2b(content, digest_size=16).digest(), row)
    return np.array(list(first.values()))


def _k_nearest(
    queries: np.ndarray, references: np.ndarray, rows: np.ndarray, k: int, flips: bool, batch_size: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices, distances and mirrored, each (N, k), the nearest first; 1 ≤ k ≤ len(rows)."""
    num_dims = math.prod(references.shape[1:])
    batch_size = batch_size or max(1, min(1024, 2**25 // num_dims))
    # One integer for (squared distance, place, mirrored), ordered like the triple.
    base = 2 * len(references)
    best = np.full((len(queries), k), np.iinfo(np.int64).max)
    for start in range(0, len(rows), batch_size):
        places = rows[start : start + batch_size]
        levels = references[places].reshape(len(places), num_dims)
        for first in range(0, len(queries), batch_size):
            batch = queries[first : first + batch_size]
            keys = _squared_distances(batch.reshape(len(batch), num_dims), levels) * base + 2 * places
            if flips:
                mirrored = _squared_distances(batch[..., ::-1].reshape(len(batch), num_dims), levels)
                keys = np.minimum(keys, mirrored * base + 2 * places + 1)
            merged = np.concatenate([best[first : first + batch_size], keys], axis=1)
            best[first : first + batch_size] = np.partition(merged, k - 1, axis=1)[:, :k]
    squared, rest = np.divmod(np.sort(best, axis=1), base)
    return rest // 2, np.sqrt(squared / num_dims), rest % 2 == 1


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """‖a_i − b_j‖², int64 (A, B), of uint8 (A, d) and (B, d): exact, at the speed of float32 products."""
    products = np.zeros((len(a), len(b)))
    a_squared, b_squared = np.zeros((len(a), 1)), np.zeros(len(b))
    for start in range(0, a.shape[1], _EXACT):
        x, y = (levels[:, start : start + _EXACT].astype(np.float32) - 128 for levels in (a, b))
        products += x @ y.T
        a_squared[:, 0] += (x * x).sum(axis=1)
        b_squared += (y * y).sum(axis=1)
    return (a_squared + b_squared - 2 * products).astype(np.int64)
