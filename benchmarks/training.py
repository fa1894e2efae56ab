"""Images per second of one full training step, beside peers as they ship, at equal parameters and FLOPs.

    python -m benchmarks training

A step is noise, forward, backward, clipping, optimiser and average. Ours is a network of the peer's parameters and
FLOPs (within a tenth), stepped as `nelbo train` steps it. All take turns, A B A B, each in its own process; medians
are reported, with the fraction of what the network's convolutions, each alone, do on this machine, and the peak of
the process's memory. Beside the peer as it ships: the peer given bfloat16 and our malloc settings.
"""

import argparse
import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from benchmarks.ceilings import convolution_ceiling
from benchmarks.peers import PEERS, Trainee
from benchmarks.turns import Contender, Timing, take_turns
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from nelbo import NoiseSchedule, ReverseProcess, UNet, V
from nelbo.training.batches import Batch
from nelbo.training.precision import bfloat16_pays
from nelbo.training.settings import TrainingConfig
from nelbo.training.state import TrainingState
from nelbo.training.step import Step

SHAPE = (3, 64, 64)
CPU = torch.device("cpu")
AS_LARGE_AS: dict[str, dict[str, Any]] = {
    "diffusers": {
        "base_width": 64, "multipliers": (1, 4, 4), "blocks_per_level": 1, "attention_levels": (), "groups": 8
    },
    "denoising-diffusion-pytorch": {
        "base_width": 96, "multipliers": (1, 2, 2), "blocks_per_level": 1, "attention_levels": (), "groups": 8
    },
}  # fmt: skip


def ours(peer: str, optimizer: str) -> Trainee:
    """Our network of the peer's size, and our step."""
    network = UNet(**AS_LARGE_AS[peer], patch=2)
    reverse = ReverseProcess(network, NoiseSchedule.cosine(), V())
    reverse.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    settings = TrainingConfig(optimizer=optimizer)  # type: ignore[arg-type]
    state = TrainingState.fresh(network, settings)
    step = Step(reverse, settings, state)

    def train(x_0: Tensor, _done: float) -> None:
        numbers = torch.arange(state.images, state.images + len(x_0))
        figures = step.gradient(Batch(x_0, numbers, None))
        figures.are_finite()
        step.update(figures, rate_factor=1.0)

    return Trainee(network, train, lambda: reverse)


def prepare(make: Callable[[], Trainee], batch: int) -> tuple[Callable[[], object], dict[str, Any]]:
    """A step on one batch, and the network's size."""
    trainee = make()
    x_0 = torch.rand(batch, *SHAPE) * 2 - 1
    x, clock = torch.zeros(1, *SHAPE), torch.zeros(1, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        trainee.network(x, clock)
    facts = {
        "parameters": sum(p.numel() for p in trainee.network.parameters()),
        "flops": 3.0 * counter.get_total_flops(),
    }
    return lambda: trainee.step(x_0, 0.1), facts


def contest(peer: str, batch: int, rounds: int, threads: int) -> list[Timing]:
    """The peer as it ships, the peer given our arithmetic and malloc, and ours with either optimiser."""
    one = functools.partial(prepare, batch=batch)
    return take_turns(
        [
            Contender(f"{peer}, as shipped", one, (PEERS[peer],), keeps_memory=False),
            Contender(f"nelbo, AdamW: {AS_LARGE_AS[peer]}", one, (functools.partial(ours, peer, "adamw"),)),
            Contender(
                f"{peer}, given bfloat16 and our malloc settings", one,
                (functools.partial(PEERS[peer], bfloat16=bfloat16_pays(CPU)),),
            ),
            Contender("nelbo, Muon", one, (functools.partial(ours, peer, "muon"),)),
        ],
        rounds=rounds,
        threads=threads,
    )  # fmt: skip


def ratios() -> dict[str, float]:
    """What `make bench-check` compares: images/s over each peer's, with AdamW."""
    found = {}
    for peer in PEERS:
        if importlib.util.find_spec(peer.replace("-", "_")) is None:
            print(f"passed over: {peer} is not installed (benchmarks/requirements-peers.txt)")
            continue
        theirs, mine, *_ = contest(peer, 16, 5, torch.get_num_threads())
        found[f"training, times {peer}"] = theirs.median / mine.median
    return found


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks training", description=__doc__)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--peers", nargs="*", choices=sorted(PEERS), default=list(PEERS))
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    dtype = torch.bfloat16 if bfloat16_pays(CPU) else torch.float32
    for peer in args.peers:
        timings = contest(peer, args.batch, args.rounds, args.threads)
        ceiling = convolution_ceiling(UNet(**AS_LARGE_AS[peer], patch=2), SHAPE, args.batch, dtype)
        print(
            f"\n{args.threads} threads, batch {args.batch}; the convolutions of nelbo's network, each alone:"
            f" {ceiling / 1e9:.0f} GFLOP/s\n\n"
            "| | parameters | GFLOP/image | images/s (spread) | GFLOP/s | of the ceiling | peak memory | images/s"
            " over the peer's | FLOP/s over the peer's |\n|---|---|---|---|---|---|---|---|---|"
        )
        base = timings[0]
        for timing in timings:
            rate, flops = args.batch / timing.median, timing.facts["flops"]
            low, high = (args.batch / bound for bound in (max(timing.seconds), min(timing.seconds)))
            gain = base.median / timing.median
            print(
                f"| {timing.name} | {timing.facts['parameters'] / 1e6:.2f} M | {flops / 1e9:.2f} |"
                f" {rate:.1f} ({low:.1f}–{high:.1f}) | {rate * flops / 1e9:.0f} | {rate * flops / ceiling:.0%} |"
                f" {timing.peak_bytes / 2**30:.2f} GiB | {gain:.2f} | {gain * flops / base.facts['flops']:.2f} |",
                flush=True,
            )
