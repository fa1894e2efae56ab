"""Which recipe learns most in ten minutes? Variants of the quick preset, each trained from scratch on the built-in
images, then judged on the held-out ones.

    python -m benchmarks recipe --minutes 9 quick adamw       the same time for each, on a quiet machine
    python -m benchmarks recipe --images 40000 quick adamw    the same images for each, on a loud one

Rows for benchmarks/RESULTS.md go to standard output; grids of samples to --out.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from nelbo.config import Config
from nelbo.data import IntakeOptions, open_store, threshold_for
from nelbo.evaluation.likelihood import estimate_likelihood
from nelbo.presets import PRESETS
from nelbo.report.pictures import grid, save_picture, to_pictures
from nelbo.run import build
from nelbo.samplers import sample
from nelbo.training import checkpoint
from nelbo.training.batches import Batches
from nelbo.training.log import TrainingLog
from nelbo.training.loop import train
from nelbo.training.settings import Limits

# Changes to the quick preset, by field of its configuration.
PATCH_4 = {"patch": 4, "base_width": 64, "multipliers": (1, 1), "attention_levels": (1,)}
VARIANTS: dict[str, dict[str, Any]] = {
    "quick": {},
    "simple": {"variance": "fixed-large", "objective": "simple"},
    "adamw": {"optimizer": "adamw", "learning_rate": 2e-3},
    "eps": {"parameterization": "eps"},
    "x0": {"parameterization": "x0"},
    "linear": {"schedule": "linear"},
    "batch 8": {"batch_size": 8},
    "batch 32": {"batch_size": 32},
    "muon 0.02": {"muon_learning_rate": 0.02},
    "muon 0.04": {"muon_learning_rate": 0.04},
    "muon 0.006": {"muon_learning_rate": 0.006},
    "width 16": {"base_width": 16},
    "width 32": {"base_width": 32},
    "two levels": {"multipliers": (1, 2), "attention_levels": (1,)},
    "three levels": {"multipliers": (1, 2, 4), "attention_levels": (2,)},
    "coarser": {"multipliers": (1, 2, 6, 6), "attention_levels": (1, 2, 3)},
    "patch 4": PATCH_4,
    "patch 4, coarser": {
        "patch": 4,
        "base_width": 64,
        "multipliers": (1, 2, 2),
        "attention_levels": (0, 1, 2),
    },
    "patch 4, linear": {**PATCH_4, "schedule": "linear"},
    "patch 1, width 16": {
        "patch": 1,
        "base_width": 16,
        "multipliers": (1, 2, 4, 8),
        "attention_levels": (3,),
    },
}


def changed(config: Config, changes: dict[str, Any]) -> Config:
    for group in dataclasses.fields(config):
        part = getattr(config, group.name)
        mine = {name: value for name, value in changes.items() if hasattr(part, name)}
        config = dataclasses.replace(config, **{group.name: dataclasses.replace(part, **mine)})
    return config


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks recipe", description=__doc__)
    parser.add_argument("variants", nargs="*", default=["quick"], help=", ".join(VARIANTS))
    parser.add_argument("--minutes", type=float, default=None, help="training time of each")
    parser.add_argument("--images", type=int, default=None, help="or training images of each")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--evaluations", type=int, default=25, help="network evaluations per held-out image")
    parser.add_argument("--out", type=Path, default=Path("runs/recipe"))
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)

    store = open_store("builtin:emoji", IntakeOptions())
    split = store.split(threshold_for(store.hashes))
    for name in args.variants:
        config = changed(PRESETS["quick"].config, VARIANTS[name])
        reverse = build(config)
        run = args.out / name.replace(" ", "-").replace(",", "")
        run.mkdir(parents=True)
        batches = Batches(store.images, split.train, seed=0, flip=False, device=torch.device("cpu"))
        limits = Limits(max_minutes=args.minutes, max_images=args.images, sample_minutes=0)
        log = TrainingLog(run, Console(stderr=True))
        outcome = train(reverse, batches, config.training, limits, run / "checkpoints", log)
        trained = run / "checkpoints" / f"step-{outcome.step:08d}"
        reverse.network.load_state_dict(checkpoint.read(trained).tensors("ema"))
        held_out, training = (
            estimate_likelihood(reverse, store.images[chosen], evaluations_per_image=args.evaluations)
            for chosen in (split.held_out, split.train[:194])
        )
        *_, last = sample(reverse, (36, 3, 64, 64), steps=50, sampler="ddim")
        save_picture(grid(to_pictures(last.x_t), scale=2), run / "samples.png")
        weights = sum(p.numel() for p in reverse.parameters()) / 1e6
        print(
            f"| {name} | {weights:.2f} M | {outcome.images:,} | {outcome.images / outcome.seconds:.0f} |"
            f" {held_out.bits_per_dim:.3f} ± {held_out.standard_error:.3f} | {training.bits_per_dim:.3f} |"
            f" {held_out.reconstruction.value:.3f} |",
            flush=True,
        )
