"""nelbo doctor: what is in the data, and what training on them will cost on this machine."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from nelbo.config import ConfigError, DataConfig
from nelbo.presets import PRESETS

if TYPE_CHECKING:
    from nelbo.calibration import Cost

_EXAMPLE = """Say what is in the data, and what training on them will cost on this machine: some ten seconds of
measuring per preset.

Example: nelbo doctor photos/"""
_DRAWN, _STEPS = 64, 50  # what `nelbo sample` draws unless told otherwise
_SPANS = {"10 minutes": 10.0, "an hour": 60.0, "8 hours": 480.0}


@dataclass
class Doctor:
    """The options of ``nelbo doctor``."""

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """A folder of images (nested), a .zip or .tar of them, a .npy or .npz of uint8, or builtin:emoji."""
    presets: tuple[Literal["quick", "overnight", "ddpm"], ...] = ("quick", "overnight")
    """The presets to measure."""
    epochs: int = 100
    """Passes over the training images to reckon with."""
    device: str = "auto"
    """cpu, cuda or cuda:N; auto takes a GPU if there is one."""
    intake: DataConfig = field(default_factory=DataConfig)


def main(arguments: Sequence[str]) -> int:
    """Parse and run."""
    args = tyro.cli(
        Doctor,
        prog="nelbo doctor",
        description=_EXAMPLE,
        args=list(arguments),
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
    )
    return doctor(args)


def doctor(args: Doctor) -> int:
    """Look at the data, then measure."""
    import dataclasses

    from rich.console import Console
    from rich.table import Table

    from nelbo.calibration import best_preset, cost_of
    from nelbo.data import labelled, open_store, threshold_for
    from nelbo.run import intake_options
    from nelbo.terminal import say

    if args.epochs < 1:
        raise ConfigError(f"--epochs is {args.epochs}; give at least 1")
    if not args.presets:
        raise ConfigError(f"--presets names none; choose among {', '.join(PRESETS)}")
    console = Console()
    store = open_store(args.data, intake_options(args.intake), progress=sys.stderr.isatty())
    if args.intake.labels:
        store = labelled(store, args.intake.labels)
    say(console, f"{args.data}: {store.describe()}")
    split = store.split(threshold_for(store.hashes, args.intake.held_out))
    say(console, f"{len(split.train):,} images to train on, {len(split.held_out):,} held out")
    say(console, _machine(args.device))

    costs: dict[str, Cost] = {}
    for preset in [name for name in PRESETS if name in args.presets]:
        with console.status(f"measuring {preset}"):
            config = dataclasses.replace(PRESETS[preset].config, data=args.intake)
            costs[preset] = cost_of(config, args.device)
    columns = ("preset", "images/s", "an epoch", f"{args.epochs} epochs", "memory", f"{_DRAWN} pictures")
    table = Table(*columns, box=None)
    for name, cost in costs.items():
        epoch = len(split.train) / cost.images_per_second
        drawing = _DRAWN * _STEPS / cost.evaluations_per_second
        table.add_row(
            name, f"{cost.images_per_second:.3g}", _span(epoch), _span(args.epochs * epoch),
            f"{cost.peak_bytes / 2**30:.1f} GiB", _span(drawing),
        )  # fmt: skip
    console.print(table)
    say(console, f"(memory of training; pictures by {_STEPS} steps of DDIM)")
    for span, minutes in _SPANS.items():
        say(console, f"for {span}: --preset {best_preset(costs, minutes)} --max-minutes {minutes:g}")
    for name, cost in costs.items():
        if cost.peak_bytes > _memory(args.device):
            say(console, f"warning: {name} needs more memory than there is; give a lower --micro-batch")
    return 0


def _machine(device_name: str) -> str:
    import torch

    from nelbo.training.precision import bfloat16_pays, chosen_device

    device = chosen_device(device_name)
    arithmetic = "bfloat16" if bfloat16_pays(device) else "float32"
    gigabytes = _memory(device_name) / 2**30
    if device.type == "cuda":
        return f"on {torch.cuda.get_device_name(device)}, {gigabytes:.0f} GiB, in {arithmetic}"
    return f"on the CPU, {torch.get_num_threads()} threads, {gigabytes:.0f} GiB, in {arithmetic}"


def _memory(device_name: str) -> float:
    """Bytes of memory of the device; infinite where it cannot be asked."""
    import torch

    from nelbo.training.precision import chosen_device

    device = chosen_device(device_name)
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return float("inf")
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _span(seconds: float) -> str:
    """A time as one would say it."""
    for unit, length in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 2 else f"{seconds:.1f} s"
