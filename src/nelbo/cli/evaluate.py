"""nelbo evaluate: how good is a run, in bits per dimension."""

import dataclasses
import math
import sys
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

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run's directory, or one of its checkpoints."""
    data: Annotated[str | None, tyro.conf.arg(metavar="DATA")] = None
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
    from nelbo.run import check_writable, checkpoints_path, load, run_of, write_json
    from nelbo.terminal import say
    from nelbo.training.allocator import keep_freed_memory
    from nelbo.training.precision import chosen_device

    for name in ("evaluations", "max_images", "batch_size"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {getattr(args, name)}; give at least 1")
    keep_freed_memory()
    console, device, run = Console(), chosen_device(args.device), run_of(args.run)
    check_writable(run.path, "RUN")
    # The one whose name is reported, should training write another meanwhile.
    checkpoint = run.checkpoint_name(args.run)
    reverse = load(checkpoints_path(run.path) / checkpoint).to(device)
    _check_evaluations(args.evaluations, reverse.schedule.num_timesteps)
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

    written = _to_json(results, codecs, name, args, checkpoint)
    path = run.path / "evaluation.json"
    write_json(written, path)
    _print(console, results, codecs, name)
    say(console, f"\nfigures: {path}")
    try:
        plot = plot_bound(results, run.path / "evaluation.png")
        say(console, f"plot: {plot}")
    except MissingExtraError as error:
        say(console, f"no plot: {error}")
    return 0


def _check_evaluations(evaluations: int, num_timesteps: int) -> None:
    if evaluations < min(2, num_timesteps):
        raise ValueError(f"--evaluations is {evaluations}; give 2 to {num_timesteps}: L_0 takes one of them")


def _splits(run: Any, args: Evaluate) -> dict[str, Any]:
    """uint8 images to evaluate on, by name, the most important first."""
    import numpy as np

    from nelbo.data import open_store
    from nelbo.run import intake_options

    options, shown = intake_options(run.config.config.data), sys.stderr.isatty()

    def spread(store: Any, indices: Any, at_most: int) -> Any:
        chosen = np.linspace(0, len(indices) - 1, min(at_most, len(indices))).round().astype(int)
        return store.images[np.asarray(indices)[chosen]]

    if args.data is not None:
        store = open_store(args.data, options, progress=shown)
        return {"data": spread(store, range(len(store.images)), args.max_images)}
    store = open_store(run.config.source, options, progress=shown)
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
    return _without_nan(
        {
            **written,
            "others": values,
            "gap": None if gap is None else {"bits_per_dim": gap[0], "standard_error": gap[1]},
            "codecs": codecs,
            "evaluations_per_image": args.evaluations,
            "seed": args.seed,
            "data": args.data,
            "checkpoint": checkpoint,
        }
    )


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: the error bar of a single image, which is unknown, becomes null."""
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _print(console: Any, results: dict[str, Any], codecs: dict[str, float], name: str) -> None:
    from rich.table import Table

    from nelbo.report.plots import in_words
    from nelbo.terminal import say

    table = Table("bits/dim", *results, title="negative ELBO, an upper bound on −log₂ p(image) per dimension")
    for label, field in (("L_T, the prior", "prior"), ("Σ L_t−1, the steps", "transitions"),
                         ("L_0, the pixels", "reconstruction")):  # fmt: skip
        table.add_row(label, *(f"{getattr(result, field):.4f}" for result in results.values()))
    table.add_section()
    totals = [in_words(result.bits_per_dim, result.standard_error) for result in results.values()]
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
        sign = "+" if gap[0] > 0 else ""
        say(console, f"held-out less train: {sign}{in_words(*gap)} bits/dim. {_verdict(*gap)}")


def _verdict(gap: float, error: float) -> str:
    if math.isnan(error):
        return "With a single held-out image nobody can say whether that means anything."
    if gap > 2 * error:
        return "The model knows its training images better than new ones: it is memorising."
    return "No sign of memorisation: new images cost no more than those it was trained on, within the error."
