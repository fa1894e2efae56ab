"""nelbo evaluate: how good is a run, in bits per dimension."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

_EXAMPLE = """Say how good a run is: the bound on the held-out images in bits per dimension, with its error,
beside the training images' (the gap says memorisation) and what PNG and lossless WebP spend on the same images.

Example: nelbo evaluate runs/photos"""


@dataclass
class Evaluate:
    """The options of ``nelbo evaluate``."""

    run: Annotated[Path, tyro.conf.Positional]
    """A run's directory, or one of its checkpoints."""
    data: str | None = None
    """Other images to evaluate on, all of them; the run's own held-out images if left out."""
    evaluations: int = 25
    """Network evaluations per image; more make the error bar smaller, 1,000 leave no step out."""
    max_images: int = 1000
    """At most so many images of each kind."""
    seed: int = 0
    """Decides the steps and the noise that are drawn."""
    batch_size: int = 32
    """Images evaluated at a time: a matter of memory and speed, not of the result."""
    device: str = "auto"
    """cpu, cuda or cuda:N; auto takes a GPU if there is one."""


def main(arguments: Sequence[str]) -> int:
    """Parse and run."""
    return evaluate(tyro.cli(Evaluate, prog="nelbo evaluate", description=_EXAMPLE, args=list(arguments)))


def evaluate(args: Evaluate) -> int:
    """Evaluate, print, and write evaluation.json and evaluation.png into the run."""
    from rich.console import Console

    from nelbo.cli.progress import evaluations_bar
    from nelbo.evaluation.codecs import codec_bits_per_dim
    from nelbo.evaluation.likelihood import estimate_likelihood
    from nelbo.report.plots import MissingExtraError, plot_bound
    from nelbo.run import load, run_of, write_json
    from nelbo.training.allocator import keep_freed_memory
    from nelbo.training.precision import chosen_device

    for name in ("evaluations", "max_images", "batch_size"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {getattr(args, name)}; give at least 1")
    keep_freed_memory()
    console = Console()
    run = run_of(args.run)
    reverse = load(args.run).to(chosen_device(args.device))
    splits = _splits(run, args)
    per_image = min(args.evaluations, reverse.schedule.num_timesteps)
    total = sum(len(images) for images in splits.values()) * per_image
    with evaluations_bar(console, "evaluating", total) as advance:
        results = {
            name: estimate_likelihood(
                reverse, images, evaluations_per_image=per_image, batch_size=args.batch_size, seed=args.seed,
                on_batch=advance,
            )
            for name, images in splits.items()
        }  # fmt: skip
    name, images = next(iter(splits.items()))
    codecs = {kind: codec_bits_per_dim(images, kind) for kind in ("PNG", "WebP")}

    written = _to_json(results, codecs, name, args, run.checkpoint_name(args.run))
    path = run.path / "evaluation.json"
    write_json(written, path)
    _print(console, results, codecs, name)
    console.print(f"\nfigures: {path}", highlight=False, soft_wrap=True)
    try:
        plot = plot_bound(results, run.path / "evaluation.png")
        console.print(f"plot: {plot}", highlight=False, soft_wrap=True)
    except MissingExtraError as error:
        console.print(f"no plot: {error}", highlight=False, soft_wrap=True)
    return 0


def _splits(run: Any, args: Evaluate) -> dict[str, Any]:
    """uint8 images to evaluate on, by name, the most important first."""
    import numpy as np

    from nelbo.data import IntakeOptions, open_store

    data = run.config.config.data
    options = IntakeOptions(data.image_size, data.channels, data.fit, data.background)

    def spread(store: Any, indices: Any, at_most: int) -> Any:
        chosen = np.linspace(0, len(indices) - 1, min(at_most, len(indices))).round().astype(int)
        return store.images[np.asarray(indices)[chosen]]

    if args.data is not None:
        store = open_store(args.data, options)
        return {"data": spread(store, range(len(store.images)), args.max_images)}
    store = open_store(run.config.source, options)
    split = store.split(run.config.held_out_threshold)
    if len(split.held_out) == 0:
        return {"train": spread(store, split.train, args.max_images)}
    held_out = spread(store, split.held_out, args.max_images)
    return {"held-out": held_out, "train": spread(store, split.train, len(held_out))}


def _gap(results: dict[str, Any]) -> tuple[float, float] | None:
    """How much better the training images are, in bits/dim, and the standard error of that."""
    if len(results) < 2:
        return None
    held_out, train = results["held-out"], results["train"]
    error = math.hypot(held_out.standard_error, train.standard_error)
    return held_out.bits_per_dim - train.bits_per_dim, error


def _to_json(
    results: dict[str, Any], codecs: dict[str, float], name: str, args: Evaluate, checkpoint: str
) -> Any:
    values = {split: dataclasses.asdict(result) for split, result in results.items()}
    for value in values.values():
        del value["per_image"]
    written = {"unit": "bits/dim", "split": name, **values.pop(name)}
    gap = _gap(results)
    return {
        **written,
        "others": values,
        "gap": None if gap is None else {"bits_per_dim": gap[0], "standard_error": gap[1]},
        "codecs": codecs,
        "evaluations_per_image": args.evaluations,
        "seed": args.seed,
        "data": args.data,
        "checkpoint": checkpoint,
    }


def _print(console: Any, results: dict[str, Any], codecs: dict[str, float], name: str) -> None:
    from rich.table import Table

    table = Table("bits/dim", *results, title="negative ELBO, an upper bound on −log₂ p(image) per dimension")
    for label, field in (("L_T, the prior", "prior"), ("Σ L_t−1, the steps", "transitions"),
                         ("L_0, the pixels", "reconstruction")):  # fmt: skip
        table.add_row(label, *(f"{getattr(result, field):.4f}" for result in results.values()))
    table.add_section()
    totals = [f"{result.bits_per_dim:.3f} ± {result.standard_error:.3f}" for result in results.values()]
    table.add_row("[bold]total ± standard error", *(f"[bold]{total}" for total in totals))
    for kind, bits in codecs.items():
        label = f"{kind}, lossless, the {name} images"
        table.add_row(label, f"{bits:.3f}", *[""] * (len(results) - 1))
    counts = [
        f"{result.num_images:,} × {result.network_evaluations // result.num_images}"
        for result in results.values()
    ]
    table.add_row("images × evaluations", *counts)
    console.print(table)
    gap = _gap(results)
    if gap is not None:
        console.print(
            f"held-out less train: {gap[0]:+.3f} ± {gap[1]:.3f} bits/dim. {_verdict(*gap)}", highlight=False
        )


def _verdict(gap: float, error: float) -> str:
    if gap > 2 * error:
        return "The model knows its training images better than new ones: it is memorising."
    return "No sign of memorisation: new images cost no more than those it was trained on, within the error."
