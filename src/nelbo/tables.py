"""Looking a time step up in a table: the only indexing by t, and the only broadcasting over images."""

import operator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

Timestep = int | np.integer[Any] | Integer[Tensor, "..."]
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def whole(value: Any, name: str) -> int:
    """The Python int that ``value`` is: an int, one of numpy's, or a tensor that holds one.

    Raises:
        ValueError: for anything else; a float is not cut down to an int, and a bool is not a number here.
    """
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise ValueError(f"{name} is {value!r}, a {type(value).__name__}; give a whole number")


def check_timestep(t: Any, num_timesteps: int, num_images: int | None = None) -> None:
    """Refuse what is no time step, one outside 1..T, or as many of them as there are not images.

    Only a tensor on the host is looked into: reading an accelerator's would force a synchronisation.

    Args:
        t: an int, or an integer tensor of shape (B,); of shape (1,) or () it holds for every image.
        num_timesteps: T.
        num_images: B, if it is known.

    Raises:
        ValueError: naming the step that is out of range, or the dtype, shape or number that will not do.
    """
    if not isinstance(t, Tensor):
        low = high = whole(t, "t")
    elif t.dtype not in _INTEGERS or t.ndim > 1:
        raise ValueError(
            f"t is a {t.dtype} tensor of shape {tuple(t.shape)}; give an int, or an integer tensor of shape (B,)"
        )
    elif num_images is not None and t.numel() not in (1, num_images):
        raise ValueError(
            f"t has {t.numel()} steps for {num_images} images; give one for each, or one for all"
        )
    elif t.device.type != "cpu" or t.numel() == 0 or torch.compiler.is_compiling():
        return
    else:
        low, high = int(t.min()), int(t.max())
    if low < 1 or high > num_timesteps:
        bad = low if low < 1 else high
        raise ValueError(f"t = {bad} is outside 1..{num_timesteps}; paper time starts at 1 and ends at T")


def gather(table: Float[Tensor, "T_plus_1"] | Int[Tensor, "T_plus_1"], t: Timestep, like: Tensor) -> Tensor:
    """Pick ``table[t]`` in the table's own precision, cast the coefficient last, and shape it for ``like``.

    A float table is float64 and the result has the dtype of ``like``, but never less than float32: a
    coefficient such as 1 − ᾱ_1 = 1e-4 has no digits left in bfloat16.

    Args:
        table: T+1 values; index 0 is the sentinel, index 1 is t = 1.
        t: an int, or an integer tensor of shape (B,), (1,) or (), in 0..T.
        like: a tensor (B, ...) that the coefficient will multiply.

    Returns:
        A tensor of shape (B, 1, ..., 1) with the rank of ``like``, or (1, 1, ..., 1) for a single ``t``: one of
        rank 0 would leave the product in the dtype of ``like``.
    """
    dtype = torch.promote_types(like.dtype, torch.float32) if table.is_floating_point() else table.dtype
    if isinstance(t, Tensor):
        # Apple's GPUs have no float64: there the lookup happens on the host.
        home = torch.device("cpu") if like.device.type == "mps" else like.device
        picked = table.to(home)[t.to(home).long()]  # (a uint8 index would be taken for a mask)
    else:
        picked = table[operator.index(t)]
    return picked.to(device=like.device, dtype=dtype).reshape(-1, *(1,) * (like.ndim - 1))


def coefficient(value: Float[Tensor, ""], like: Tensor) -> Tensor:
    """A single float64 number, cast last, with the rank of ``like``: see ``gather``."""
    return gather(value[None], 0, like)
