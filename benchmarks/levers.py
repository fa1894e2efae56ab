"""What each lever gains: a training step as it is, and with one thing taken away or put in, in turns.

    python -m benchmarks levers [--preset quick] [--only NAME ...]

Each variant in its own process, A B C A B C; medians. Above 1: the step as it is is that many times as fast.
"""

import argparse
import functools
import os
import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from benchmarks.steps import training_step
from benchmarks.turns import Contender, take_turns

from nelbo.config import Config
from nelbo.nn import blocks, fast
from nelbo.presets import PRESETS

CPU = torch.device("cpu")
Prepared = tuple[Callable[[], object], dict[str, Any]]


def as_it_is(config: Config, **changes: Any) -> Prepared:
    return training_step(replace(config, training=replace(config.training, **changes)), CPU), {}


def on_another_grid(config: Config, **changes: Any) -> Prepared:
    return training_step(replace(config, network=replace(config.network, **changes)), CPU), {}


def contiguous(config: Config) -> Prepared:
    """NCHW: the channels-last request is answered with the format that is there."""
    torch.channels_last = torch.contiguous_format  # type: ignore[assignment, misc]
    return as_it_is(config)


def adamw_without_fusion(config: Config) -> Prepared:
    fused = torch.optim.AdamW

    def unfused(*args: Any, **options: Any) -> torch.optim.AdamW:
        return fused(*args, **(options | {"fused": False, "foreach": False}))

    torch.optim.AdamW = unfused  # type: ignore[assignment, misc]
    return as_it_is(config)


def normalisation_of_torch(config: Config) -> Prepared:
    fast.GroupNorm.forward = torch.nn.GroupNorm.forward  # type: ignore[assignment]
    return as_it_is(config)


def attention_of_torch(config: Config) -> Prepared:
    blocks.attention = torch.nn.functional.scaled_dot_product_attention
    return as_it_is(config)


def pinned(config: Config) -> Prepared:
    """Both threads of the process, each on a core of its own."""
    step = training_step(config, CPU)
    step()  # the pool of threads is there now
    cores = sorted(os.sched_getaffinity(0))
    busy = sorted(os.listdir("/proc/self/task"), key=_cpu_ticks, reverse=True)
    for core, thread in zip(cores, busy):
        os.sched_setaffinity(int(thread), {core})
    return step, {}


def _cpu_ticks(thread: str) -> int:
    with open(f"/proc/self/task/{thread}/stat") as stream:
        fields = stream.read().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


WIDE = {"base_width": 32, "coarse_width": 32}  # widths that 32 groups divide
VARIANTS: dict[str, tuple[Callable[..., Prepared], bool]] = {
    "float32, not bfloat16": (functools.partial(as_it_is, precision="float32"), True),
    "malloc as it comes": (as_it_is, False),
    "NCHW, not channels last": (contiguous, True),
    "normalisation as torch has it": (normalisation_of_torch, True),
    "attention as torch has it": (attention_of_torch, True),
    "AdamW in a loop, not fused": (adamw_without_fusion, True),
    "AdamW alone, no Muon": (functools.partial(as_it_is, optimizer="adamw"), True),
    "in two micro-batches": (functools.partial(as_it_is, micro_batch=12), True),
    "32 groups a normalisation, not 8": (functools.partial(on_another_grid, **WIDE, groups=32), True),
    "8 groups, the same widths": (functools.partial(on_another_grid, **WIDE), True),
    "threads pinned to cores": (pinned, True),
}  # fmt: skip


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks levers", description=__doc__)
    parser.add_argument("--preset", default="quick", choices=sorted(PRESETS))
    parser.add_argument("--only", nargs="*", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args(arguments)
    config = PRESETS[args.preset].config
    contenders = [Contender("as it is", as_it_is, (config,))]
    for name in args.only:
        prepare, keeps_memory = VARIANTS[name]
        contenders.append(Contender(name, prepare, (config,), keeps_memory=keeps_memory))
    base, *others = take_turns(contenders, rounds=args.rounds)
    print(f"{args.preset}, batch {config.training.batch_size}, as it is: {1e3 * base.median:.0f} ms a step\n")
    print("| | ms | gain of what is there | peak memory |\n|---|---|---|---|")
    for timing in (base, *others):
        middle, low, high = (1e3 * f(timing.seconds) for f in (statistics.median, min, max))
        print(
            f"| {timing.name} | {middle:.0f} ({low:.0f}–{high:.0f}) | {timing.median / base.median:.2f} |"
            f" {timing.peak_bytes / 2**30:.2f} GiB |"
        )
