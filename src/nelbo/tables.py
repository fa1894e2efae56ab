"""Looking a time step up in a table: the only indexing by t, and the only broadcasting over images."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

Timestep = int | Int[Tensor, "B"]


def check_timestep(t: Timestep, num_timesteps: int) -> None:
    """Refuse a time step outside 1..T.

    Only what is already on the host is looked at: an accelerator's ``t`` would force a synchronisation.

    Raises:
        ValueError: naming the step that is out of range.
    """
    if isinstance(t, Tensor):
        if t.device.type != "cpu" or t.numel() == 0 or torch.compiler.is_compiling():
            return
        low, high = int(t.min()), int(t.max())
    else:
        low = high = t
    if low < 1 or high > num_timesteps:
        bad = low if low < 1 else high
        raise ValueError(f"t = {bad} is outside 1..{num_timesteps}; paper time starts at 1 and ends at T")


def gather(table: Float[Tensor, "T_plus_1"] | Int[Tensor, "T_plus_1"], t: Timestep, like: Tensor) -> Tensor:
    """Pick ``table[t]`` in the table's own precision, cast the coefficient last, and shape it for ``like``.

    A float table is float64 and the result has the dtype of ``like``, but never less than float32: a
    coefficient such as 1 − ᾱ_1 = 1e-4 has no digits left in bfloat16.

    Args:
        table: T+1 values; index 0 is the sentinel, index 1 is t = 1.
        t: an int, or an int tensor of shape (B,), in 0..T.
        like: a tensor (B, ...) that the coefficient will multiply.

    Returns:
        A tensor of shape (B, 1, ..., 1) with the rank of ``like``, or a scalar tensor for an int ``t``.
    """
    dtype = torch.promote_types(like.dtype, torch.float32) if table.is_floating_point() else table.dtype
    if isinstance(t, int):
        return table[t].to(device=like.device, dtype=dtype)
    # Apple's GPUs have no float64: there the lookup happens on the host.
    home = torch.device("cpu") if like.device.type == "mps" else like.device
    picked = table.to(home)[t.to(home)].to(device=like.device, dtype=dtype)
    return picked.reshape(-1, *(1,) * (like.ndim - 1))
