"""nelbo edit: change images of one's own with a run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    import torch

    from nelbo.cli.subject import Subject
    from nelbo.samplers import SampleState

_EXAMPLE = """Change images of your own with a run: paint a part anew, redraw, clean, blend, see them turn to noise.
Give one of --mask, --strength, --noise, --interpolate, --forward.

Example: nelbo edit runs/photos portrait.png --mask mask.png --num 4"""
_WAYS = ("mask", "strength", "noise", "interpolate", "forward")
_STEPS = 50


@dataclass
class Edit:
    """The options of ``nelbo edit``."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run's directory, or one of its checkpoints."""
    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE …")]
    """Image files; they are brought to the run's size as its training images were."""
    mask: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Paint anew what is white in this image; the rest stays as it is, to the pixel."""
    strength: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = None
    """Redraw: from little more than 0, almost the same, to 1, almost another."""
    noise: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = None
    """Take away white noise of this standard deviation, in levels of 256."""
    interpolate: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """A strip of so many images from the first to the second."""
    forward: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """No editing: a strip of so many stages on the way from the image to noise."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Where the pictures go; RUN/edits/NAME-WAY if left out, after the first image."""
    num: int = 1
    """How many versions of each image."""
    steps: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """How many of the run's T steps are taken from x_T down; 50, or T if that is less, if left out."""
    sampler: Literal["ddim", "ancestral", "dpm++", "sde-dpm++"] = "ancestral"
    """See `nelbo sample`; --interpolate has ddim alone."""
    resamplings: int = 5
    """With --mask: how often each step is taken; more makes the new part fit better, and takes longer."""
    class_name: Annotated[str | None, tyro.conf.arg(name="class", metavar="NAME")] = None
    """Of which class, if the run has learned any; none if left out."""
    guidance: float = 1.0
    """Towards the class: 1 for none; 1.5 to 4 give clearer pictures, at twice the time."""
    seed: int = 0
    """Chooses the noise."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the network; auto takes bfloat16 where the hardware has it, which moves some pixels by a few
    levels."""
    device: str = "auto"
    """cpu, cuda or cuda:N; auto takes a GPU if there is one."""


def main(arguments: Sequence[str]) -> int:
    """Parse and run."""
    return edit(tyro.cli(Edit, prog="nelbo edit", description=_EXAMPLE, args=list(arguments)))


def edit(args: Edit) -> int:
    """Edit."""
    from dataclasses import replace

    import torch
    from rich.console import Console

    from nelbo.cli.progress import evaluations_bar
    from nelbo.cli.subject import check_steps, open_subject
    from nelbo.report.pictures import film_strip, save_picture, scale_for, to_pictures
    from nelbo.run import check_writable
    from nelbo.terminal import say
    from nelbo.training.allocator import keep_freed_memory
    from nelbo.training.precision import chosen_device, for_drawing

    way = _way(args)
    keep_freed_memory()
    console, device = Console(), chosen_device(args.device)
    subject = open_subject(args.run, device)
    subject = replace(subject, reverse=for_drawing(subject.reverse, device, args.precision))
    place = subject.path if subject.run is None else subject.run.path
    out = args.out or place / "edits" / f"{args.images[0].stem}-{way}"
    check_writable(out, "--out")
    num_timesteps = subject.reverse.schedule.num_timesteps
    args.steps = min(_STEPS, num_timesteps) if args.steps is None else args.steps
    check_steps(args.steps, subject)
    originals = torch.stack([_read(path, subject) for path in args.images])
    scale = scale_for(subject.image_shape[1:])

    if way == "forward":
        stages = _forward(subject, originals, args)
        say(console, f"strip: {save_picture(film_strip(stages, scale), out / 'strip.png')}")
        return 0
    started, result = originals, originals
    with evaluations_bar(console, way, None) as advance:
        states = _states(way, args, subject, originals, device)
        for number, state in enumerate(states):
            if number == 0:
                started = state.x_t
            else:
                advance(len(state.x_t) * (args.resamplings if way == "mask" else 1))
            result = state.x_t
    for index, picture in enumerate(to_pictures(result)):
        save_picture(picture, out / f"{index:05d}.png")
    if way == "interpolate":
        stages = [("", image[None]) for image in result.cpu()]
        stages = [("one", originals[:1]), *stages, ("other", originals[1:])]
    else:
        versions = result.cpu().reshape(args.num, *originals.shape)
        stages = [
            ("before", originals),
            ("begun", started[: len(originals)]),
            *(("after", v) for v in versions),
        ]
    say(
        console,
        f"{len(result):,} images in {out}\nstrip: {save_picture(film_strip(stages, scale), out / 'strip.png')}",
    )
    return 0


def _way(args: Edit) -> str:
    """The one thing that is wanted."""
    given = [name for name in _WAYS if getattr(args, name) is not None]
    if len(given) != 1:
        options = ", ".join(f"--{name}" for name in _WAYS)
        raise ValueError(
            f"give one of {options}; given: {', '.join(f'--{name}' for name in given) or 'none'}"
        )
    (way,) = given
    if not args.images:
        raise ValueError("give an image file to edit, after the run")
    if way == "interpolate" and (len(args.images) != 2 or args.num != 1):
        raise ValueError(
            f"--interpolate is between two images, once; {len(args.images)} are given, --num {args.num}"
        )
    if args.num < 1:
        raise ValueError(f"--num is {args.num}; give at least 1")
    if way == "forward" and (args.forward or 0) < 2:
        raise ValueError(f"--forward is {args.forward}; give at least 2 stages")
    return way


def _states(
    way: str, args: Edit, subject: "Subject", originals: "torch.Tensor", device: "torch.device"
) -> "Iterator[SampleState]":
    from nelbo import edits

    images = originals.repeat(args.num, 1, 1, 1).to(device)
    num = args.interpolate if way == "interpolate" and args.interpolate else len(images)
    options: dict[str, Any] = {
        "steps": args.steps, "seed": args.seed, "guidance": args.guidance, "sampler": args.sampler,
        "label": _label(args, subject, num, device),
    }  # fmt: skip
    if args.mask is not None:
        mask = _read(args.mask, subject).mean(0) > 0
        if bool(mask.all()) or not bool(mask.any()):
            raise ValueError(
                f"{args.mask} is all of one colour: white says where to paint, black what to keep"
            )
        return edits.inpaint(
            subject.reverse, images, mask.to(device), resamplings=args.resamplings, **options
        )
    if args.strength is not None:
        return edits.image_to_image(subject.reverse, images, strength=args.strength, **options)
    if args.noise is not None:
        return edits.denoise(subject.reverse, images, noise_level=args.noise / 127.5, **options)
    one, other = originals.to(device)
    del options["sampler"]
    return edits.interpolate(subject.reverse, one, other, num=num, **options)


def _forward(subject: "Subject", originals: "torch.Tensor", args: Edit) -> "list[tuple[str, torch.Tensor]]":
    from nelbo import edits

    last, num = subject.reverse.schedule.num_timesteps, (args.forward or 2) - 1
    times = [round(last * i / num) for i in range(num + 1)]
    return [(f"t = {t}", edits.noised(subject.reverse, originals, t, seed=args.seed).cpu()) for t in times]


def _label(args: Edit, subject: "Subject", num: int, device: "torch.device") -> "torch.Tensor | None":
    """Of every image: the class that is named, or none."""
    import torch

    from nelbo.cli.classes import labels_for

    if args.class_name is not None:
        return labels_for(subject.class_names, 0, num, device, (args.class_name,))
    if args.guidance != 1:
        raise ValueError(f"--guidance {args.guidance:g} steers towards a class: name one with --class")
    return torch.full((num,), -1, device=device) if subject.class_names else None


def _read(path: Path, subject: "Subject") -> "torch.Tensor":
    """An image file on [−1, 1], (C, H, W), as the run's training images were brought to size."""
    import torch

    from nelbo.data import IntakeOptions, levels_to_unit
    from nelbo.data.decode import decode
    from nelbo.run import intake_options

    channels, height, width = subject.image_shape
    options = IntakeOptions((height, width), channels)
    if subject.run is not None:
        options = intake_options(subject.run.config.config.data)
    try:
        levels = decode(path.read_bytes(), options)
    except Exception as error:  # whatever Pillow makes of a bad file
        raise ValueError(f"{path} cannot be read: {error}") from error
    return levels_to_unit(torch.from_numpy(levels))
