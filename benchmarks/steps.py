"""How fast is a training step and a network evaluation of a preset, and what part of the machine does it use?

    python -m benchmarks steps [--preset quick] [--rounds 9] [--compile]

FLOPs are counted by torch; the ceiling is the network's own convolutions, each alone, forward and backward.
Training, as it is and compiled, and evaluation are timed in turn, A B C A B C, and medians are reported.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from benchmarks.ceilings import convolution_ceiling
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nelbo.build import build
from nelbo.config import Config
from nelbo.presets import PRESETS
from nelbo.training.allocator import keep_freed_memory
from nelbo.training.batches import Batch
from nelbo.training.precision import bfloat16_pays, chosen_device
from nelbo.training.state import TrainingState
from nelbo.training.step import Step


def training_step(config: Config, device: torch.device, *, compiled: bool = False) -> Callable[[], object]:
    """One step of `nelbo train`, on a batch of noise."""
    reverse = build(config).to(device)
    reverse.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert isinstance(reverse.network, nn.Module)
    state = TrainingState.fresh(reverse.network, config.training)
    step, size = Step(reverse, config.training, state, compiled=compiled), config.training.batch_size
    x_0 = torch.rand(size, config.data.channels, *config.data.image_size, device=device) * 2 - 1

    def work() -> None:
        numbers = torch.arange(state.images, state.images + size, device=device)
        figures = step.gradient(Batch(x_0, numbers, None))
        figures.are_finite()
        step.update(figures, rate_factor=0.1)

    return work


def seconds(work: Callable[[], object], device: torch.device) -> float:
    begun = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def measure(
    preset: str, rounds: int, *, compiled: bool = False, **changes: object
) -> tuple[dict[str, float], float, float]:
    """Median seconds of each piece of work, FLOPs of one image (forward), FLOP/s of the ceiling."""
    device = chosen_device("auto")
    config = PRESETS[preset].config
    config = replace(config, training=replace(config.training, **changes))  # type: ignore[arg-type]
    size = config.training.batch_size
    reverse = build(config).to(device)
    reverse.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x_t = torch.rand(size, config.data.channels, *config.data.image_size, device=device) * 2 - 1
    t = torch.arange(size, device=device) * 1000 // size + 1

    def evaluate() -> None:
        with torch.no_grad():
            reverse.predict(x_t, t)

    with FlopCounterMode(display=False) as counter:
        evaluate()
    flops = counter.get_total_flops() / size
    work = {"step": training_step(config, device), "evaluation": evaluate}
    if compiled:
        work["step, compiled"] = training_step(config, device, compiled=True)
        begun = time.perf_counter()
        work["step, compiled"]()
        print(f"compiling took {time.perf_counter() - begun:.0f} s")
    times: dict[str, list[float]] = {name: [] for name in work}
    for round_number in range(rounds + 1):
        for name, function in work.items():
            taken = seconds(function, device)
            if round_number:
                times[name].append(taken)
    dtype = torch.bfloat16 if bfloat16_pays(device) else torch.float32
    assert isinstance(reverse.network, nn.Module)
    image_shape = (config.data.channels, *config.data.image_size)
    ceiling = (
        convolution_ceiling(reverse.network, image_shape, size, dtype)
        if device.type == "cpu"
        else float("nan")
    )
    return {name: statistics.median(values) for name, values in times.items()}, flops, ceiling


def ratios() -> dict[str, float]:
    """What `make bench-check` compares: the fraction of the ceiling that the quick preset's training reaches."""
    medians, flops, ceiling = measure("quick", 9)
    size = PRESETS["quick"].config.training.batch_size
    return {"quick, step: of its convolutions' ceiling": 3 * flops * size / medians["step"] / ceiling}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks steps", description=__doc__)
    parser.add_argument("--preset", default="quick", choices=sorted(PRESETS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--micro-batch", type=int, default=None)
    parser.add_argument("--batch", type=int, default=None)
    parser.add_argument("--compile", action="store_true", help="compiled, too: takes minutes to begin")
    args = parser.parse_args(arguments)
    keep_freed_memory()
    size = args.batch or PRESETS[args.preset].config.training.batch_size
    medians, flops, ceiling = measure(
        args.preset, args.rounds, compiled=args.compile, batch_size=size, micro_batch=args.micro_batch
    )
    print(f"{args.preset}, {torch.get_num_threads()} threads, batch {size}, median of {args.rounds}")
    print(f"its convolutions, each alone: {ceiling / 1e9:.0f} GFLOP/s")
    for name, median in medians.items():
        rate, per_image = size / median, flops * (1 if name == "evaluation" else 3)
        print(
            f"{name}: {rate:.1f} images/s, {per_image / 1e9:.2f} GFLOP/image, {rate * per_image / 1e9:.0f} GFLOP/s,"
            f" {rate * per_image / ceiling:.0%} of the ceiling"
        )
