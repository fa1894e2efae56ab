"""nelbo sample: draw images from a run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

_EXAMPLE = """Draw images from a run: PNGs, a grid of them, and on request the way there as an animation.

Example: nelbo sample runs/photos --num 64 --steps 50 --sampler ddim --seed 0 --out pictures"""
_STEPS, _MAX_FRAMES, _MAX_ANIMATED, _MAX_COLUMNS, _MAX_ROWS = 50, 60, 16, 16, 8


@dataclass
class Sample:
    """The options of ``nelbo sample``."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run's directory, or one of its checkpoints."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Where the pictures go; RUN/samples/seed-SEED if left out."""
    num: int = 64
    """How many images."""
    steps: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Network evaluations per image, 1 to the T of the run; 50, or T if that is less, if left out."""
    sampler: Literal["ddim", "ancestral", "dpm++", "sde-dpm++"] = "ddim"
    """ddim, and with fewer steps dpm++, of the second order; ancestral is the lecture's and Ho's, best with all
    steps; sde-dpm++ is dpm++ with new noise in every step."""
    eta: float = 0.0
    """Of ddim: how much of the noise is drawn anew in each step, from 0, none, to 1, as ancestral with β̃."""
    path: Literal["even", "quadratic", "shifted", "log-snr", "optimal"] = "even"
    """Which steps are taken when not all are: evenly spaced, closer together near the image or near the noise,
    evenly spaced in the logarithm of signal over noise, or those of the least bound, which `nelbo evaluate`
    measures: best for bits, not always for looks."""
    variance: Literal["own", "fixed-large", "fixed-small", "analytic"] = "own"
    """σ² of an ancestral step: as the run was trained, β, β̃, or the best fixed one (see --path optimal)."""
    classes: Annotated[tuple[str, ...], tyro.conf.arg(name="class", metavar="NAME …")] = ()
    """Of which classes, in turn; all that the run learned (with --classes), in turn, if left out."""
    guidance: float = 1.0
    """Towards the class: 1 for none; 1.5 to 4 give clearer and more alike pictures, at twice the time."""
    threshold: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = None
    """A share of the pixels, such as 0.995: scale the estimate of x_0 so that these are in range, where strong
    guidance would clip many."""
    seed: int = 0
    """Chooses the images: the same seed draws the same ones."""
    first: int = 0
    """The index of the first image; to draw more of a seed, begin where the last call ended."""
    animate: bool = False
    """Also save the reverse process as an animation, x_t on the left, the estimate of x_0 on the right."""
    every: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Also save every so-manieth state of the first eight images, side by side as a film strip."""
    animation: Literal["webp", "gif"] = "webp"
    """The format of that animation."""
    batch_size: int = 16
    """Images drawn at a time: a matter of memory and speed, not of the pictures."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the network; auto takes bfloat16 where the hardware has it, which moves some pixels by a few
    levels."""
    device: str = "auto"
    """cpu, cuda or cuda:N; auto takes a GPU if there is one."""


def main(arguments: Sequence[str]) -> int:
    """Parse and run."""
    return sample(tyro.cli(Sample, prog="nelbo sample", description=_EXAMPLE, args=list(arguments)))


def sample(args: Sample) -> int:
    """Draw."""
    from rich.console import Console

    from nelbo.cli.classes import labels_for
    from nelbo.cli.progress import evaluations_bar
    from nelbo.cli.subject import OWN, chosen_path, chosen_variance, open_subject
    from nelbo.report.pictures import film_strip, grid, save_animation, save_picture, scale_for, to_pictures
    from nelbo.run import check_writable
    from nelbo.samplers import sample as draw
    from nelbo.terminal import say
    from nelbo.training.allocator import keep_freed_memory
    from nelbo.training.precision import chosen_device, for_drawing

    for name in ("num", "batch_size", "every"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {getattr(args, name)}; give at least 1")
    if not math.isfinite(args.guidance):
        raise ValueError(f"--guidance is {args.guidance}; give a number, such as 2")
    if args.first < 0:
        raise ValueError(f"--first is {args.first}; indices start at 0")
    keep_freed_memory()
    console, device = Console(), chosen_device(args.device)
    subject = open_subject(args.run, device)
    place, shape = subject.path if subject.run is None else subject.run.path, subject.image_shape
    out = args.out or place / "samples" / f"seed-{args.seed}"
    check_writable(out, "--out")
    if args.guidance != 1 and not subject.class_names:
        raise ValueError(f"--guidance steers towards a class, and {args.run} was trained without --classes")
    profile, reverse = subject.profile, subject.reverse
    if args.variance != OWN:
        reverse = reverse.with_variance(chosen_variance(args.variance, subject, profile))
    steps = min(_STEPS, reverse.schedule.num_timesteps) if args.steps is None else args.steps
    path = chosen_path(args.path, steps, reverse, subject, profile)
    reverse = for_drawing(reverse, device, args.precision)
    pictures: list[Any] = []
    frames: list[Any] = []
    strip: list[Any] = []
    captions: list[str] = []
    with evaluations_bar(console, "sampling", args.num * steps) as advance:
        for start in range(0, args.num, args.batch_size):
            size = min(args.batch_size, args.num - start)
            label = labels_for(subject.class_names, args.first + start, size, device, args.classes)
            states = draw(
                reverse, (size, *shape), path=path, sampler=args.sampler, seed=args.seed,
                first=args.first + start, label=label, guidance=args.guidance, eta=args.eta,
                threshold=args.threshold,
            )  # fmt: skip
            for number, state in enumerate(states):
                if number:
                    advance(size)
                if args.animate and start == 0 and _is_frame(number, steps):
                    frames.append(_frame(state, shape))
                if args.every is not None and start == 0 and (number % args.every == 0 or number == steps):
                    strip.append(state)
            for index, picture in enumerate(to_pictures(state.x_t), args.first + start):
                save_picture(picture, out / f"{index:05d}.png")
                pictures.append(picture)
            captions += [] if label is None else [subject.class_names[i] for i in label.tolist()]
    turns = len(args.classes or subject.class_names)
    columns = turns if 2 < turns <= _MAX_COLUMNS else None  # a class in each
    scale = scale_for(shape[1:])
    whole = grid(pictures, columns=columns, scale=scale, captions=captions)
    sheet = save_picture(whole, out / "grid.png")
    say(console, f"{args.num:,} images in {out}\ngrid: {sheet}")
    if frames:
        film = save_animation(frames, out / f"reverse.{args.animation}")
        say(console, f"the reverse process: {film}")
    if strip:
        film = save_picture(
            film_strip([(f"t = {s.t}", s.x_t[:_MAX_ROWS]) for s in strip], scale), out / "strip.png"
        )
        say(console, f"film strip: {film}")
    return 0


def _is_frame(number: int, steps: int) -> bool:
    return number == steps or number % max(1, -(-steps // _MAX_FRAMES)) == 0


def _frame(state: Any, shape: Sequence[int]) -> Any:
    from nelbo.report.pictures import grid, scale_for, side_by_side, to_pictures

    scale = scale_for(shape[1:])
    sheets = (grid(to_pictures(x[:_MAX_ANIMATED]), scale=scale) for x in (state.x_t, state.x_0_hat))
    return side_by_side(*sheets)
