"""How fast is a training step and a network evaluation of a preset, and what part of the machine does it use?

    python -m benchmarks steps [--preset quick] [--rounds 5]

FLOPs are counted by torch; the ceiling is a 3×3 convolution, forward and backward, as at the coarser levels.
Ceiling, training and evaluation are timed in turn, A B C A B C, and medians are reported.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from nelbo.build import build
from nelbo.objectives import OBJECTIVES
from nelbo.presets import PRESETS
from nelbo.training.allocator import keep_freed_memory
from nelbo.training.precision import autocast, chosen_device
from nelbo.training.state import TrainingState


def seconds(work: Callable[[], object], device: torch.device) -> float:
    begun = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks steps")
    parser.add_argument("--preset", default="quick", choices=sorted(PRESETS))
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args(arguments)
    keep_freed_memory()
    device = chosen_device("auto")
    config = PRESETS[args.preset].config
    batch = config.training.batch_size
    reverse = build(config).to(device)
    reverse.to(memory_format=torch.channels_last)
    state = TrainingState.fresh(reverse.network, config.training)
    x_0 = torch.rand(batch, config.data.channels, *config.data.image_size, device=device) * 2 - 1
    eps, t = torch.randn_like(x_0), torch.randint(1, 1001, (batch,), device=device)
    objective = OBJECTIVES[config.training.objective]

    def step() -> None:
        with autocast(device, config.training.precision):
            loss = objective(reverse, x_0, eps, t).mean()
        loss.backward()
        for optimizer in state.optimizers:
            optimizer.step()
        reverse.zero_grad()
        state.ema.update(batch, batch)

    def evaluate() -> None:
        with torch.no_grad():
            reverse.predict(x_0, t)

    width = 4 * config.network.base_width
    kernel = torch.nn.Conv2d(width, width, 3, padding=1, device=device).to(memory_format=torch.channels_last)
    pixels = torch.randn(batch, width, 16, 16, device=device, requires_grad=True)
    pixels = pixels.to(memory_format=torch.channels_last)

    def ceiling() -> None:
        with autocast(device, config.training.precision):
            out = kernel(pixels)
        out.backward(torch.ones_like(out), retain_graph=True)

    with FlopCounterMode(display=False) as counter:
        evaluate()
    per_image = counter.get_total_flops() / batch
    work = {"ceiling": ceiling, "step": step, "evaluate": evaluate}
    times: dict[str, list[float]] = {name: [] for name in work}
    for round_number in range(args.rounds + 1):
        for name, function in work.items():
            taken = seconds(function, device)
            if round_number:
                times[name].append(taken)
    median = {name: statistics.median(values) for name, values in times.items()}
    ceiling_rate = 3 * 2 * batch * 9 * width * width * 256 / median["ceiling"] / 1e9
    print(
        f"{args.preset} on {device}, {torch.get_num_threads()} threads, batch {batch}, median of {args.rounds}"
    )
    print(f"convolution ceiling, {width} channels on 16×16: {ceiling_rate:.0f} GFLOP/s")
    for name, factor in (("step", 3), ("evaluate", 1)):
        rate = batch / median[name]
        flops = factor * per_image * rate / 1e9
        print(
            f"{name}: {rate:.1f} images/s, {factor * per_image / 1e9:.2f} GFLOP/image,"
            f" {flops:.0f} GFLOP/s, {flops / ceiling_rate:.0%} of the ceiling"
        )
