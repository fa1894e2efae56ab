"""Random numbers without a state: every draw is a pure function of a seed and of what it is drawn for.

Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") in tensor operations: the same
bits on every device, whatever was drawn before. The counter of a draw is (block within the item, item, step,
purpose); an item is an image of a sampling call or the n-th example that training sees, so neither the batch
size nor the number of processes can change what it is given.
"""

import enum
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


class Purpose(enum.IntEnum):
    """What a draw is for: two purposes never share a number."""

    ORDER = 0
    TIMESTEP = 1
    FORWARD_NOISE = 2
    FLIP = 3
    DROPOUT = 4
    PRIOR = 5
    REVERSE_NOISE = 6
    EVALUATION_TIMESTEP = 7
    EVALUATION_NOISE = 8
    LABEL_DROPOUT = 9
    KNOWN_NOISE = 10
    RESAMPLING = 11


def philox(counter: Sequence[Tensor], seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The ten rounds of Philox4x32.

    Args:
        counter: four int64 tensors, broadcastable, each holding 32-bit words.
        seed: the 64-bit key.

    Returns:
        Four int64 tensors of random 32-bit words, 0..2³²−1.
    """
    c0, c1, c2, c3 = torch.broadcast_tensors(*counter)  # type: ignore[no-untyped-call]
    key_0, key_1 = seed & _MASK, (seed >> 32) & _MASK
    for _ in range(_ROUNDS):
        product_0, product_1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((product_1 >> 32) & _MASK) ^ c1 ^ key_0,
            product_1 & _MASK,
            ((product_0 >> 32) & _MASK) ^ c3 ^ key_1,
            product_0 & _MASK,
        )
        key_0, key_1 = (key_0 + _WEYL[0]) & _MASK, (key_1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def _words(
    seed: int, purpose: Purpose, items: Int[Tensor, "B"], step: int, num_words: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four tensors (B, ⌈num_words/4⌉) of random words; items above 2³² carry over into the purpose's word."""
    blocks = torch.arange(-(-num_words // 4), device=items.device)[None, :]
    items = items.to(torch.int64)[:, None]
    high = ((items >> 32) << 8) | int(purpose)
    steps = torch.full_like(items, step & _MASK)
    return philox((blocks, items & _MASK, steps, high), seed)


def uniform(seed: int, purpose: Purpose, items: Int[Tensor, "B"], *, step: int = 0) -> Float[Tensor, "B"]:
    """One number in [0, 1) for each item, float64, shape (B,)."""
    first, second, _, _ = _words(seed, purpose, items, step, 2)
    return ((first << 21) | (second >> 11)).squeeze(1).to(torch.float64) * 2.0**-53


def normal(
    seed: int,
    purpose: Purpose,
    items: Int[Tensor, "B"],
    shape: Sequence[int],
    *,
    step: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Standard normal draws for each item, by Box and Muller's transform.

    Args:
        seed: the run's or the call's seed, 64 bits.
        purpose: what the draw is for.
        items: (B,) the indices of the images.
        shape: the shape of one item, (C, H, W).
        step: the time step or optimisation step of the draw.
        dtype: float32 or float64.

    Returns:
        (B, *shape), on the device of ``items``.
    """
    size = math.prod(shape)
    words = _words(seed, purpose, items, step, size)
    in_unit = [(word.to(dtype) + 0.5) * 2.0**-32 for word in words]
    pairs = []
    for radius_source, angle in (in_unit[:2], in_unit[2:]):
        radius = torch.sqrt(-2.0 * torch.log(radius_source))
        pairs += [radius * torch.cos(2 * math.pi * angle), radius * torch.sin(2 * math.pi * angle)]
    return torch.stack(pairs, dim=2).flatten(1)[:, :size].reshape(len(items), *shape)


def permutation(seed: int, epoch: int, size: int) -> Int[Tensor, "size"]:
    """The order in which epoch number ``epoch`` visits ``size`` images."""
    keys = uniform(seed, Purpose.ORDER, torch.arange(size), step=epoch)
    return torch.argsort(keys, stable=True)


def randn(like: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Standard normal draws of the shape, dtype and device of ``like``, from a stateful torch generator."""
    device = like.device if generator is None else generator.device
    dtype = torch.promote_types(like.dtype, torch.float32)
    return torch.randn(like.shape, generator=generator, dtype=dtype, device=device).to(like.device)
