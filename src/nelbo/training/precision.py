"""In which arithmetic the network runs. The mathematics around it stays in float32 or better."""

from contextlib import AbstractContextManager
from typing import Literal

import torch


def bfloat16_pays(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 matrices itself; elsewhere it is emulated, and slower."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def autocast(
    device: torch.device, precision: Literal["auto", "float32", "bfloat16"]
) -> AbstractContextManager[object]:
    """The context in which the network is called."""
    wanted = precision == "bfloat16" or (precision == "auto" and bfloat16_pays(device))
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=wanted)


def chosen_device(name: str) -> torch.device:
    """The device of this name; for "auto", an NVIDIA GPU if there is one, else the CPU.

    Raises:
        ValueError: if there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} cannot be used here; choose cpu, cuda, cuda:N or auto") from error
    return device
