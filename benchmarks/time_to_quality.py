"""How long until a held-out quality? The peers train for 20 minutes, nelbo for 4, each with the whole machine.

    python -m benchmarks time_to_quality [--only NAME ...]

All see the built-in images (no classes, no mirroring), in batches as they ship; then one evaluator, nelbo's, scores
the same held-out images, the peers' networks wrapped, with the better of β and β̃ for their variance.
"""

import argparse
import dataclasses
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.peers import PEERS, Trainee
from rich.console import Console

from nelbo import FixedLarge, FixedSmall, ReverseProcess
from nelbo.build import build
from nelbo.config import Config
from nelbo.data import IntakeOptions, Split, Store, open_store, threshold_for
from nelbo.evaluation.likelihood import estimate_likelihood
from nelbo.presets import PRESETS
from nelbo.run import RunConfig, load, write_config
from nelbo.training.allocator import keep_freed_memory
from nelbo.training.batches import Batches
from nelbo.training.log import TrainingLog
from nelbo.training.loop import train
from nelbo.training.settings import Limits

CPU = torch.device("cpu")
BATCH = 16  # the peers' own


def data() -> tuple[Store, Split]:
    store = open_store("builtin:emoji", IntakeOptions())
    return store, store.split(threshold_for(store.hashes))


def peer_after(make: Callable[[], Trainee], minutes: float) -> tuple[list[ReverseProcess], int]:
    """A peer as it ships, trained for so long, with each of its variances; and how many images it saw."""
    torch.manual_seed(0)
    store, split = data()
    batches = Batches(store.images, split.train, seed=0, flip=False, device=CPU)
    trainee, images, begun = make(), 0, time.monotonic()
    while (done := (time.monotonic() - begun) / (60 * minutes)) < 1:
        x_0, _ = batches.examples(images, BATCH)
        trainee.step(x_0, done)
        images += BATCH
    model = trainee.model()
    return [model.with_variance(variance) for variance in (FixedLarge(), FixedSmall())], images


def ours_after(config: Config, minutes: float, out: Path) -> tuple[list[ReverseProcess], int]:
    """A configuration of ours, as `nelbo train` trains it."""
    store, split = data()
    write_config(out, RunConfig("builtin:emoji", threshold_for(store.hashes), config))
    limits = Limits(max_minutes=minutes, sample_minutes=0)
    batches = Batches(store.images, split.train, seed=0, flip=False, device=CPU)
    log = TrainingLog(out, Console(stderr=True))
    outcome = train(build(config), batches, config.training, limits, out / "checkpoints", log)
    return [load(out)], outcome.images


def score(models: list[ReverseProcess], images: int, evaluations: int, num_images: int) -> dict[str, Any]:
    """The lowest bound of the models, on the same images and noise for everyone."""
    keep_freed_memory()
    store, split = data()
    chosen = split.held_out[np.linspace(0, len(split.held_out) - 1, num_images).astype(int)]
    found = []
    for model in models:
        estimate = estimate_likelihood(model, store.images[chosen], evaluations_per_image=evaluations)
        found.append((type(model.variance).__name__, estimate))
    name, best = min(found, key=lambda pair: pair[1].bits_per_dim)
    return {
        "images": images,
        "variance": name,
        "bits_per_dim": best.bits_per_dim,
        "error": best.standard_error,
    }


def contestant(name: str, minutes: float, evaluations: int, num_images: int, out: Path) -> dict[str, Any]:
    """Train and score one of them; called in its own process."""
    if name in PEERS:
        models, images = peer_after(PEERS[name], minutes)
    else:
        models, images = ours_after(OURS[name], minutes, out / name.replace(" ", "-"))
    return {"name": name, "minutes": minutes} | score(models, images, evaluations, num_images)


QUICK = PRESETS["quick"].config
OURS: dict[str, Config] = {
    "nelbo quick": QUICK,
    "nelbo as large as diffusers": dataclasses.replace(
        QUICK,
        network=dataclasses.replace(
            QUICK.network, base_width=64, multipliers=(1, 4, 4), attention_levels=(2,), coarse_pool=1
        ),
        training=dataclasses.replace(QUICK.training, timestep_shift=1.0),
    ),
}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks time_to_quality", description=__doc__)
    parser.add_argument("--peer-minutes", type=float, default=20.0)
    parser.add_argument("--our-minutes", type=float, default=4.0)
    parser.add_argument("--only", nargs="*", choices=[*OURS, *PEERS], default=[*OURS, *PEERS])
    parser.add_argument("--evaluations", type=int, default=12, help="network evaluations per held-out image")
    parser.add_argument("--images", type=int, default=96, help="held-out images")
    parser.add_argument("--out", type=Path, default=Path("runs/time-to-quality"))
    args = parser.parse_args(arguments)
    context = multiprocessing.get_context("spawn")
    print("| | minutes | images seen | held-out bits/dim | variance |\n|---|---|---|---|---|", flush=True)
    for name in args.only:
        minutes = args.peer_minutes if name in PEERS else args.our_minutes
        with context.Pool(1) as pool:
            row = pool.apply(contestant, (name, minutes, args.evaluations, args.images, args.out))
        print(
            f"| {name} | {minutes:g} | {row['images']:,} | {row['bits_per_dim']:.3f} ± {row['error']:.3f} |"
            f" {row['variance']} |",
            flush=True,
        )
