"""The 256-level grid on [-1, 1]: x = u/127.5 - 1 and its inverse, the only home of that formula."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def levels_to_unit(u: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Levels u in {0, …, 255} as x = u/127.5 - 1 in [-1, 1].

    Computed as (2u - 255)/255, the same number with a single rounding, in float32 (float64 for float64);
    a narrower ``dtype`` is cast to last.

    Lecture: data, x_0

    Args:
        u: Integer tensor of any shape, values 0..255 (not checked: this runs inside the training step).
        dtype: Floating-point dtype of the result; float32 if not given.

    Returns:
        A tensor of u's shape and device, values in [-1, 1].

    Raises:
        ValueError: u or dtype is of the wrong kind.
    """
    import torch

    dtype = torch.float32 if dtype is None else dtype
    if u.is_floating_point() or u.is_complex() or u.dtype == torch.bool:
        raise ValueError(f"levels are integers 0..255, got a tensor of {u.dtype}; pass uint8 images")
    if not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating-point dtype, got {dtype}")
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return ((2 * u.to(wide) - 255) / 255).to(dtype)


def unit_to_levels(x: torch.Tensor) -> torch.Tensor:
    """Numbers x in [-1, 1] as the nearest levels u = round(127.5 (x + 1)), clamped to {0, …, 255}.

    Args:
        x: Floating-point tensor of any shape; what lies outside [-1, 1] is clamped. Computed in float32
            (float64 for float64).

    Returns:
        A uint8 tensor of x's shape and device.

    Raises:
        ValueError: x is not floating-point, or holds a NaN (which has no level).
    """
    import torch

    if not x.is_floating_point():
        raise ValueError(f"x must be a floating-point tensor in [-1, 1], got {x.dtype}")
    wide = x if x.dtype == torch.float64 else x.to(torch.float32)
    num_nans = int(wide.isnan().sum())
    if num_nans:
        raise ValueError(
            f"{num_nans:,} of {x.numel():,} values are NaN and have no level; see where they arose"
        )
    return ((wide + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
