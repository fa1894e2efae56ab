"""nelbo evaluate: how good is a run, in bits per dimension."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

_EXAMPLE = """Say how good a model is: the bound on the held-out images in bits per dimension, with its error bars,
beside the training images' (the gap says memorisation) and what PNG and lossless WebP spend on the same images.
RUN may also be a folder in diffusers' format; it needs --data.

Example: nelbo evaluate runs/photos --precision 0.01"""


@dataclass
class Evaluate:
    """The options of ``nelbo evaluate``."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run's directory, one of its checkpoints, or a diffusers folder."""
    data: Annotated[str | None, tyro.conf.arg(metavar="DATA")] = None
    """Other images to evaluate on, all of them; the run's own held-out images if left out."""
    evaluations: int = 24
    """Network evaluations per image, spent where the spread is; more make the error bar smaller."""
    precision: Annotated[float | None, tyro.conf.arg(metavar="BITS")] = None
    """Go on until the mean over these very images is known to ± this many bits/dim (95 %)."""
    exact: bool = False
    """Leave no step out: all T for every image. Slow; the estimate agrees with it within its error bar."""
    steps: Annotated[int | None, tyro.conf.arg(metavar="K")] = None
    """Judge the model that takes K of the T steps; all of them if left out."""
    path: Literal["even", "quadratic", "shifted", "optimal"] = "even"
    """Which K: optimal is the one with the least bound. It is best for bits, not always for looks."""
    variance: Literal["own", "fixed-large", "fixed-small", "analytic"] = "own"
    """σ² of a reverse step: as the run was trained, β, β̃, or the best fixed one, measured on training images."""
    reference: bool = False
    """Ho et al.'s decoder (tanh and a floor), to compare with published numbers: no true likelihood."""
    samples: int = 36
    """Pictures to draw and look up among the training images: does it copy? 0 for none."""
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
    """Evaluate, print, and write evaluation.json, evaluation.png and neighbours.png into the run."""
    from rich.console import Console

    from nelbo.cli.audit import audit, planned_evaluations
    from nelbo.cli.audit_table import show
    from nelbo.cli.progress import evaluations_bar
    from nelbo.cli.subject import check_steps, images_of, open_subject
    from nelbo.report.plots import MissingExtraError, plot_bound
    from nelbo.run import check_writable, write_json
    from nelbo.terminal import say
    from nelbo.training.allocator import keep_freed_memory
    from nelbo.training.precision import chosen_device

    _check(args)
    keep_freed_memory()
    console, device = Console(), chosen_device(args.device)
    subject = open_subject(args.run, device)
    if args.steps is not None:
        check_steps(args.steps, subject)
    out = subject.path if subject.run is None else subject.run.path
    check_writable(out, "RUN")
    images = images_of(subject, args.data, args.max_images)
    total = planned_evaluations(subject, images, args)
    with evaluations_bar(console, "evaluating", total) as advance:
        written = audit(subject, images, args, out, advance)
    path = out / "evaluation.json"
    write_json(written, path)
    show(console, written)
    say(console, f"\nfigures: {path}")
    if written["memorisation"] is not None:
        say(console, f"samples beside their nearest training images: {out / 'neighbours.png'}")
    try:
        say(console, f"plot: {plot_bound(written, out / 'evaluation.png')}")
    except MissingExtraError as error:
        say(console, f"no plot: {error}")
    return 0


def _check(args: Evaluate) -> None:
    for name, least in (("evaluations", 2), ("max_images", 1), ("batch_size", 1), ("samples", 0)):
        if getattr(args, name) < least:
            option = name.replace("_", "-")
            raise ValueError(f"--{option} is {getattr(args, name)}; give at least {least}")
    if args.precision is not None and not 0 < args.precision < 100:
        raise ValueError(f"--precision is {args.precision:g}; give bits/dim to be sure to, such as 0.01")
    if args.precision is not None and args.exact:
        raise ValueError("--exact and --precision are both given: choose one; --exact leaves no step out")
    if args.path != "even" and args.steps is None:
        raise ValueError(f"--path {args.path} chooses some of the steps: say how many with --steps")
    if args.reference and args.variance != "own":
        raise ValueError(f"--reference is the published way; --variance {args.variance} is not. Choose one")
