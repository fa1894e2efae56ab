"""What a configuration costs on this machine, measured in seconds, and which preset a time is best spent on."""

import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch

from nelbo.build import build
from nelbo.config import Config
from nelbo.presets import PRESETS
from nelbo.training.allocator import keep_freed_memory
from nelbo.training.batches import Batches
from nelbo.training.precision import chosen_device
from nelbo.training.state import TrainingState
from nelbo.training.step import Step

_DRAWN = 16  # pictures at once, as `nelbo sample` draws them


@dataclass(frozen=True)
class Cost:
    """What a configuration costs here.

    Attributes:
        images_per_second: of training.
        evaluations_per_second: network evaluations, one image each, as sampling makes them.
        peak_bytes: the most memory that training held: the GPU's, or the whole process's.
    """

    images_per_second: float
    evaluations_per_second: float
    peak_bytes: int


def cost_of(config: Config, device: str = "auto", *, seconds: float = 3.0) -> Cost:
    """Train on noise for about so many seconds, in a process of its own, whose memory is free again afterwards.

    Raises:
        ValueError: if the configuration makes no network, or there is no such device.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measure, config, device, seconds, torch.get_num_threads()).result()


def best_preset(costs: dict[str, Cost], minutes: float) -> str:
    """The last preset of the ladder that would see enough images in so many minutes; else the first."""
    fitting = [
        name for name, cost in costs.items()
        if images_in(cost, minutes) >= PRESETS[name].worth_from
    ]  # fmt: skip
    return fitting[-1] if fitting else next(iter(costs))


def images_in(cost: Cost, minutes: float) -> int:
    """How many images training would see in so many minutes."""
    return int(cost.images_per_second * 60 * minutes)


def _measure(config: Config, device_name: str, seconds: float, threads: int) -> Cost:
    torch.set_num_threads(threads)
    keep_freed_memory()
    device, settings = chosen_device(device_name), replace(config.training, timesteps="uniform")
    reverse = build(config).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    size, shape = settings.batch_size, (config.data.channels, *config.data.image_size)
    noise = np.random.default_rng(0).integers(0, 256, (size, *shape), dtype=np.uint8)
    batches = Batches(noise, np.arange(size), seed=0, flip=config.data.flip, device=device)
    state = TrainingState.fresh(reverse.network, settings)
    step = Step(reverse, settings, state)

    def train() -> None:
        figures = step.gradient(batches.batch(state.images, size))
        step.update(figures, rate_factor=1e-6)
        figures.are_finite()  # waits for a GPU

    x_t = batches.batch(0, size).x_0[:_DRAWN]
    t = torch.randint(1, reverse.schedule.num_timesteps + 1, (len(x_t),), device=device)

    def draw() -> None:
        with torch.no_grad():
            float(reverse.predict(x_t, t).x_0.mean())

    images_per_second = size / _median_seconds(train, seconds)
    peak = torch.cuda.max_memory_reserved(device) if device.type == "cuda" else _peak_of_process()
    return Cost(images_per_second, len(x_t) / _median_seconds(draw, seconds / 2), peak)


def _median_seconds(work: Callable[[], None], seconds: float) -> float:
    """Of as many calls as fit, two or more, after one that is not counted."""
    work()
    times: list[float] = []
    while len(times) < 2 or sum(times) < seconds:
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def _peak_of_process() -> int:
    import resource  # there is none on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
