"""Which recipe learns most in ten minutes? Variants of the quick preset, each trained from scratch on the built-in
images, then judged on the held-out ones.

    python -m benchmarks recipe --minutes 9 quick adamw       the same time for each, on a quiet machine
    python -m benchmarks recipe --images 40000 quick adamw    the same images for each, on a loud one

Rows for benchmarks/RESULTS.md go to standard output; grids of samples to --out.
"""

import argparse
import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.kid import features, kernel_distance
from PIL import Image
from rich.console import Console

from nelbo.build import build
from nelbo.cli.classes import labels_for
from nelbo.config import Config
from nelbo.data import IntakeOptions, open_store, threshold_for, unit_to_levels
from nelbo.evaluation.likelihood import estimate_likelihood
from nelbo.presets import PRESETS
from nelbo.report.pictures import grid, save_picture
from nelbo.reverse import ReverseProcess
from nelbo.samplers import sample
from nelbo.training import checkpoint
from nelbo.training.batches import Batches
from nelbo.training.log import TrainingLog
from nelbo.training.loop import train
from nelbo.training.settings import Limits

CPU = torch.device("cpu")

# Changes to the quick preset with classes, by field of its configuration.
FINE = {"coarse_pool": 1}
VARIANTS: dict[str, dict[str, Any]] = {
    "quick": {},
    "no classes": {"classes": False},
    "shift 1": {"timestep_shift": 1.0},
    "shift 3": {"timestep_shift": 3.0},
    "coarse 48": {"coarse_width": 48, "coarse_multipliers": (1, 2, 2)},
    "fine only": FINE,
    "fine only, shift 1": {**FINE, "timestep_shift": 1.0},
    "fine only, shift 3": {**FINE, "timestep_shift": 3.0},
    "fine only, shift 1, no classes": {**FINE, "timestep_shift": 1.0, "classes": False},
    "fine only, simple": {
        **FINE, "timestep_shift": 1.0, "classes": False, "variance": "fixed-large", "objective": "simple"
    },
    "adamw": {"optimizer": "adamw", "learning_rate": 2e-3},
    "eps": {"parameterization": "eps"},
    "x0": {"parameterization": "x0"},
    "linear": {"schedule": "linear"},
    "batch 8": {"batch_size": 8},
    "batch 24": {"batch_size": 24},
    "batch 32": {"batch_size": 32},
    "muon 0.02": {"muon_learning_rate": 0.02},
    "muon 0.006": {"muon_learning_rate": 0.006},
    "width 32": {"base_width": 32},
    "width 48": {"base_width": 48, "coarse_width": 64},
    "fine only, 32 (1, 3, 4, 4)": {**FINE, "base_width": 32, "multipliers": (1, 3, 4, 4)},
    "fine only, patch 4": {
        **FINE, "patch": 4, "base_width": 96, "multipliers": (1, 2), "attention_levels": (1,)
    },
}  # fmt: skip


def changed(config: Config, changes: dict[str, Any]) -> Config:
    for group in dataclasses.fields(config):
        part = getattr(config, group.name)
        mine = {name: value for name, value in changes.items() if hasattr(part, name)}
        config = dataclasses.replace(config, **{group.name: dataclasses.replace(part, **mine)})
    return config


def draw(reverse: ReverseProcess, classes: list[str], num: int) -> np.ndarray:
    """uint8 pictures, class after class with a guidance of 2 where there are classes; ancestral, 60 steps."""
    drawn = []
    for first in range(0, num, 16):
        size = min(16, num - first)
        label, guidance = labels_for(classes, first, size, CPU), 2.0 if classes else 1.0
        *_, last = sample(reverse, (size, 3, 64, 64), steps=60, first=first, label=label, guidance=guidance)
        drawn.append(unit_to_levels(last.x_t).numpy())
    return np.concatenate(drawn)


def distance(pictures: np.ndarray, real: np.ndarray) -> str:
    """The kernel distance to all images, if its features are installed."""
    if importlib.util.find_spec("efficientnet_lite_pytorch") is None:
        return "–"
    return f"{kernel_distance(features(pictures), features(real)):.3f}"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks recipe", description=__doc__)
    parser.add_argument("variants", nargs="*", default=["quick"], help=", ".join(VARIANTS))
    parser.add_argument("--minutes", type=float, default=None, help="training time of each")
    parser.add_argument("--images", type=int, default=None, help="or training images of each")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--evaluations", type=int, default=25, help="network evaluations per held-out image")
    parser.add_argument("--samples", type=int, default=80)
    parser.add_argument("--out", type=Path, default=Path("runs/recipe"))
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)

    store = open_store("builtin:emoji", IntakeOptions())
    split = store.split(threshold_for(store.hashes))
    for name in args.variants:
        config = changed(PRESETS["quick"].config, {"classes": True, **VARIANTS[name]})
        classes = store.class_names if config.data.classes else []
        reverse = build(config, num_classes=len(classes) or None)
        run = args.out / name.replace(" ", "-").replace(",", "")
        run.mkdir(parents=True)
        batches = Batches(
            store.images, split.train, seed=0, flip=False, device=CPU, labels=store.labels if classes else None,
            label_dropout=config.training.label_dropout,
        )  # fmt: skip
        limits = Limits(max_minutes=args.minutes, max_images=args.images, sample_minutes=0)
        log = TrainingLog(run, Console(stderr=True))
        outcome = train(reverse, batches, config.training, limits, run / "checkpoints", log)
        trained = run / "checkpoints" / f"step-{outcome.step:08d}"
        reverse.network.load_state_dict(checkpoint.read(trained).tensors("ema"))
        held_out, training = (
            estimate_likelihood(reverse, store.images[chosen], evaluations_per_image=args.evaluations)
            for chosen in (split.held_out, split.train[:194])
        )
        pictures = draw(reverse, classes, args.samples)
        np.save(run / "samples.npy", pictures)
        save_picture(
            grid([Image.fromarray(p.transpose(1, 2, 0)) for p in pictures], scale=2), run / "samples.png"
        )
        weights = sum(p.numel() for p in reverse.parameters()) / 1e6
        print(
            f"| {name} | {weights:.2f} M | {outcome.images:,} | {outcome.images / outcome.seconds:.0f} |"
            f" {held_out.bits_per_dim:.3f} ± {held_out.standard_error:.3f} | {training.bits_per_dim:.3f} |"
            f" {held_out.reconstruction.value:.3f} | {distance(pictures, np.asarray(store.images))} |",
            flush=True,
        )
