"""In which arithmetic the network runs. The mathematics around it stays in float32 or better."""

from contextlib import AbstractContextManager
from typing import Literal

import torch

from nelbo.nn import InBfloat16
from nelbo.reverse import ReverseProcess

Precision = Literal["auto", "float32", "bfloat16"]


def bfloat16_pays(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 matrices itself; elsewhere it is emulated, and slower."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """The context in which the network is called."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=in_bfloat16(device, precision))


def in_bfloat16(device: torch.device, precision: Precision) -> bool:
    """Whether the network runs in bfloat16."""
    return precision == "bfloat16" or (precision == "auto" and bfloat16_pays(device))


def for_drawing(reverse: ReverseProcess, device: torch.device, precision: Precision) -> ReverseProcess:
    """The model with its network in the arithmetic of this precision, for drawing alone."""
    network = reverse.network
    if not in_bfloat16(device, precision) or not isinstance(network, torch.nn.Module):
        return reverse
    return reverse.with_network(InBfloat16(network))


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
