"""Pictures per second: diffusers' pipeline, and nelbo with the same weights.

    python -m benchmarks sampling

One network evaluation of a batch, and a whole DDIM sampler; A B A B, each in its own process with its own malloc.
"""

import argparse
import functools
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from benchmarks.peers import diffusers
from benchmarks.turns import Contender, Timing, take_turns

from nelbo.interop.diffusers import read_diffusers
from nelbo.reverse import ReverseProcess
from nelbo.samplers import sample
from nelbo.training.precision import Precision, for_drawing

PRECISIONS: tuple[Precision, ...] = ("float32", "auto")
Prepared = tuple[Callable[[], object], dict[str, Any]]


def their_evaluation(folder: str, batch: int) -> Prepared:
    from diffusers import UNet2DModel

    network = UNet2DModel.from_pretrained(folder, subfolder="unet").eval()
    x, clock = torch.randn(batch, 3, 64, 64), torch.randint(0, 1000, (batch,))

    def evaluate() -> None:
        with torch.no_grad():
            network(x, clock)

    return evaluate, {}


def _ours(folder: str, precision: Precision) -> ReverseProcess:
    reverse = read_diffusers(folder).reverse
    reverse.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return for_drawing(reverse, torch.device("cpu"), precision)


def our_evaluation(folder: str, batch: int, precision: Precision) -> Prepared:
    reverse = _ours(folder, precision)
    x, t = torch.randn(batch, 3, 64, 64), torch.randint(1, 1001, (batch,))

    def evaluate() -> None:
        with torch.no_grad():
            reverse.predict(x, t)

    return evaluate, {}


def their_pipeline(folder: str, batch: int, steps: int) -> Prepared:
    from diffusers import DDIMPipeline

    pipeline = DDIMPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return lambda: pipeline(batch_size=batch, num_inference_steps=steps, output_type="np"), {}


def our_sampler(folder: str, batch: int, steps: int, precision: Precision) -> Prepared:
    reverse = _ours(folder, precision)

    def draw() -> None:
        for _ in sample(reverse, (batch, 3, 64, 64), steps=steps, sampler="ddim"):
            pass

    return draw, {}


def contest(batch: int, steps: int, rounds: int) -> list[Timing]:
    """Theirs, then ours in float32 and as `nelbo sample` draws: a network evaluation, and a sampler."""
    from diffusers import DDIMPipeline, DDIMScheduler

    with tempfile.TemporaryDirectory() as folder:
        DDIMPipeline(diffusers().network, DDIMScheduler()).save_pretrained(folder)
        same = functools.partial
        rows = [
            Contender("diffusers, an evaluation", same(their_evaluation, folder, batch), keeps_memory=False)
        ]
        rows += [
            Contender(f"nelbo, an evaluation, {precision}", same(our_evaluation, folder, batch, precision))
            for precision in PRECISIONS
        ]
        rows.append(
            Contender("diffusers, DDIM", same(their_pipeline, folder, batch, steps), keeps_memory=False)
        )
        rows += [
            Contender(f"nelbo, DDIM, {precision}", same(our_sampler, folder, batch, steps, precision))
            for precision in PRECISIONS
        ]
        return take_turns(rows, rounds=rounds)


def ratios() -> dict[str, float]:
    """What `make bench-check` compares."""
    theirs, _, ours, their_ddim, _, our_ddim = contest(16, 4, 5)
    return {
        "network evaluation, times diffusers": theirs.median / ours.median,
        "DDIM, times diffusers": their_ddim.median / our_ddim.median,
    }


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks sampling", description=__doc__)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(arguments)
    timings = contest(args.batch, args.steps, args.rounds)
    print(f"batch {args.batch}, {args.steps} steps, median of {args.rounds}\n")
    print("| | seconds (spread) | images/s | over diffusers' | peak memory |\n|---|---|---|---|---|")
    for timing, base in zip(timings, [timings[0]] * 3 + [timings[3]] * 3):
        print(
            f"| {timing.name} | {timing.median:.2f} ({min(timing.seconds):.2f}–{max(timing.seconds):.2f}) |"
            f" {args.batch / timing.median:.1f} | {base.median / timing.median:.2f} |"
            f" {timing.peak_bytes / 2**30:.2f} GiB |"
        )
