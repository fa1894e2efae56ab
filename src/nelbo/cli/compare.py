"""nelbo compare: which of two models is better, on the same images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

_EXAMPLE = """Say which of two models is better: both bounds on the same images, at the same steps and noise, and
their difference with its error bar. Images are the first run's held-out ones, unless --data gives others.

Example: nelbo compare runs/a runs/b"""


@dataclass
class Compare:
    """The options of ``nelbo compare``."""

    first: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="A")]
    """A run's directory, one of its checkpoints, or a diffusers folder."""
    second: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="B")]
    """Another, for images of the same size."""
    data: Annotated[str | None, tyro.conf.arg(metavar="DATA")] = None
    """Images to compare on; the first run's held-out images if left out."""
    evaluations: int = 24
    """Network evaluations of each model per image."""
    max_images: int = 1000
    """At most so many images."""
    seed: int = 0
    """Decides the steps and the noise that are drawn."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Also write the figures to this JSON file."""
    batch_size: int = 32
    """Images evaluated at a time: a matter of memory and speed, not of the result."""
    device: str = "auto"
    """cpu, cuda or cuda:N; auto takes a GPU if there is one."""


def main(arguments: Sequence[str]) -> int:
    """Parse and run."""
    return compare(tyro.cli(Compare, prog="nelbo compare", description=_EXAMPLE, args=list(arguments)))


def compare(args: Compare) -> int:
    """Compare and print."""
    from rich.console import Console
    from rich.table import Table

    from nelbo.cli.progress import evaluations_bar
    from nelbo.cli.subject import images_of, open_subject
    from nelbo.evaluation.comparison import compare as paired_comparison
    from nelbo.evaluation.record import record, without_nan
    from nelbo.report.plots import in_words
    from nelbo.run import check_writable, write_json
    from nelbo.terminal import say
    from nelbo.training.allocator import keep_freed_memory
    from nelbo.training.precision import chosen_device

    for name, least in (("evaluations", 2), ("max_images", 1), ("batch_size", 1)):
        if getattr(args, name) < least:
            option = name.replace("_", "-")
            raise ValueError(f"--{option} is {getattr(args, name)}; give at least {least}")
    if args.out is not None:
        check_writable(args.out.parent, "--out")
    keep_freed_memory()
    console, device = Console(), chosen_device(args.device)
    subjects = [open_subject(path, device) for path in (args.first, args.second)]
    shapes = [subject.image_shape for subject in subjects]
    if shapes[0] != shapes[1]:
        sizes = " and ".join("×".join(map(str, shape)) for shape in shapes)
        raise ValueError(f"{args.first} and {args.second} are for images of {sizes}: no image fits both")
    images = images_of(subjects[0], args.data, args.max_images)
    with evaluations_bar(console, "comparing", 2 * len(images.judged) * args.evaluations) as advance:
        found = paired_comparison(
            subjects[0].reverse, subjects[1].reverse, images.judged,
            evaluations_per_image=args.evaluations, seed=args.seed, batch_size=args.batch_size, on_batch=advance,
        )  # fmt: skip
    sentence = found.sentence(str(args.first), str(args.second))
    title = f"{found.first.num_images:,} images ({images.name})"
    table = Table("bits/dim", str(args.first), str(args.second), title=title)
    both = (found.first, found.second)
    for label, part in (("L_T", "prior"), ("Σ L_t−1", "transitions"), ("L_0", "reconstruction")):
        table.add_row(label, *(f"{getattr(one, part).value:.4f}" for one in both))
    table.add_section()
    table.add_row(
        "[bold]total ± standard error",
        *(f"[bold]{in_words(one.bits_per_dim, one.standard_error)}" for one in both),
    )
    console.print(table)
    say(console, sentence)
    say(
        console,
        f"standard error of the difference: {found.standard_error:.4f} paired ({found.unpaired_error:.4f} if it"
        f" were not), {found.sampling_error:.4f} for these very images",
    )
    if args.out is not None:
        written = {
            "unit": "bits/dim",
            "first": {"path": str(args.first), "checkpoint": subjects[0].checkpoint, **record(found.first)},
            "second": {
                "path": str(args.second),
                "checkpoint": subjects[1].checkpoint,
                **record(found.second),
            },
            "difference": found.difference,
            "sampling_error": found.sampling_error,
            "standard_error": found.standard_error,
            "half_width": found.half_width,
            "unpaired_error": found.unpaired_error,
            "shared_draws": found.shared_draws,
            "sentence": sentence,
            "split": images.name,
            "data": args.data,
            "seed": args.seed,
        }
        write_json(without_nan(written), args.out)
        say(console, f"figures: {args.out}")
    return 0
