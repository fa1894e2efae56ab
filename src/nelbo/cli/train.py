"""nelbo train: from images to a run."""

import dataclasses
import sys
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from nelbo.cli.calibrated import calibrated
from nelbo.config import Config, ConfigError, as_option, check, to_json
from nelbo.presets import DEFAULT_PRESET, PRESETS
from nelbo.training.settings import Limits

_EXAMPLE = """Train a model on images. The same command again goes on where the run stopped.

Example: nelbo train photos/ --out runs/photos --max-minutes 10"""
_PRESET_HELP = (
    "Where the defaults of all other options come from; those shown here are of quick. auto: with --max-minutes,"
    " what is best for so long on this machine, measured in some ten seconds; else quick. "
    + "; ".join(f"{name}: {preset.summary}" for name, preset in PRESETS.items())
)
_SAMPLES, _SAMPLE_STEPS = 16, 25


@dataclass
class Train:
    """The options of ``nelbo train``."""

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """A folder of images (nested), a .zip or .tar of them, a .npy or .npz of uint8, or builtin:emoji."""
    out: Annotated[Path, tyro.conf.arg(metavar="RUN")]
    """The run's directory."""
    preset: Annotated[Literal["auto", "quick", "overnight", "ddpm"], tyro.conf.arg(help=_PRESET_HELP)] = (
        "auto"
    )
    device: str = "auto"
    """cpu, cuda or cuda:N; auto takes a GPU if there is one."""
    limits: Limits = field(default_factory=Limits)
    config: Config = field(default_factory=Config)


def main(arguments: Sequence[str]) -> int:
    """Parse and run."""
    preset = _preset_in(arguments)
    args = _parse(arguments, preset, PRESETS[preset or DEFAULT_PRESET].config)
    if args.preset != "auto":
        return train(args)
    begun = _existing_run(args.out)
    if begun is not None:
        args = _parse(arguments, begun.preset, begun.config)
    elif args.limits.max_minutes is not None and "--max-minutes" in _options(arguments):
        name = calibrated(
            lambda name: _parse(arguments, name, PRESETS[name].config).config,
            args.limits.max_minutes,
            args.device,
        )
        args = _parse(arguments, name, PRESETS[name].config)
    else:
        args.preset = DEFAULT_PRESET
    return train(args)


def _parse(arguments: Sequence[str], preset: str | None, config: Config) -> "Train":
    """The options, with the defaults of a preset (of None: quick's, and it is still to be chosen)."""
    limits = PRESETS[preset if preset in PRESETS else DEFAULT_PRESET].limits
    if any(option.startswith("--max-") for option in _options(arguments)):
        limits = dataclasses.replace(limits, max_steps=None, max_images=None, max_minutes=None)
    defaults = Train("", Path(), preset=preset or "auto", limits=limits, config=config)  # type: ignore[arg-type]
    defaults.data = defaults.out = tyro.MISSING  # these two have none
    args: Any = tyro.cli(
        Train,
        prog="nelbo train",
        description=_EXAMPLE,
        args=list(arguments),
        default=defaults,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
    )
    if preset is not None:
        args.preset = preset  # the user's own "--preset auto" has been followed
    return typing.cast(Train, args)


def _options(arguments: Sequence[str]) -> list[str]:
    return [argument.replace("_", "-").split("=")[0] for argument in arguments]


def _preset_in(arguments: Sequence[str]) -> str | None:
    """The preset that the arguments name; "auto" is none, and a wrong one is left to the parser to refuse."""
    for argument, following in zip(arguments, [*arguments[1:], ""]):
        name = following if argument == "--preset" else argument.removeprefix("--preset=")
        if argument.startswith("--preset") and name in PRESETS:
            return name
    return None


def train(args: Train) -> int:
    """Train, or go on training."""
    from rich.console import Console

    from nelbo.build import build
    from nelbo.cli.classes import labels_for
    from nelbo.data import labelled, open_store
    from nelbo.run import check_writable, checkpoints_path, intake_options
    from nelbo.terminal import say
    from nelbo.training.batches import Batches
    from nelbo.training.log import TrainingLog
    from nelbo.training.loop import train as train_loop
    from nelbo.training.precision import chosen_device

    console = Console()
    config = args.config
    _check_limits(args.limits)
    check(config)
    device = chosen_device(args.device)
    reverse = build(config)  # refuses a network that does not fit, before images are read
    run_config = _checked_run(args)
    check_writable(args.out, "--out")
    data = config.data
    store = open_store(args.data, intake_options(data), progress=sys.stderr.isatty())
    if data.labels:
        store = labelled(store, data.labels)
    run_config = run_config or _new_run(args, store)
    classes = run_config.class_names
    if classes:
        reverse = build(config, num_classes=len(classes))
    split = store.split(run_config.held_out_threshold)
    say(console, f"{args.data}: {store.describe()}")
    num_weights = sum(p.numel() for p in reverse.parameters())
    say(
        console,
        f"{len(split.train):,} images to train on, {len(split.held_out):,} held out; network of"
        f" {num_weights:,} weights on {device}",
    )
    batches = Batches(
        store.images, split.train, seed=config.training.seed, flip=data.flip, device=device,
        labels=store.labels_among(classes) if classes else None, label_dropout=config.training.label_dropout,
    )  # fmt: skip
    reverse.to(device)

    def draw_samples(step: int) -> None:
        label = labels_for(classes, 0, _SAMPLES, device)
        _draw_samples(reverse, store.images.shape[1:], label, args.out / "samples" / f"step-{step:08d}.png")

    outcome = train_loop(
        reverse,
        batches,
        config.training,
        args.limits,
        checkpoints_path(args.out),
        TrainingLog(args.out, console),
        draw_samples if args.limits.sample_minutes > 0 else None,
    )
    done = f"{outcome.step:,} steps, {outcome.images:,} images, {outcome.seconds / 60:.1f} minutes"
    if outcome.interrupted:
        say(console, f"stopped at {done}; the same command goes on from there")
        return 130
    say(
        console,
        f"trained: {done}\nrun: {args.out}\nnext: nelbo sample {args.out}, nelbo evaluate {args.out};"
        " to train longer, raise the limit (--max-minutes, --max-steps or --max-images)",
    )
    return 0


def _check_limits(limits: Limits) -> None:
    for name in ("max_steps", "max_images", "max_minutes"):
        value = getattr(limits, name)
        if value is not None and not value > 0:
            raise ConfigError(f"--{name.replace('_', '-')} is {value}; give a positive number")
    if limits.max_steps is limits.max_images is limits.max_minutes is None:
        raise ConfigError("training would never end; give --max-minutes, --max-steps or --max-images")
    if limits.keep < 1:
        raise ConfigError(f"--keep is {limits.keep}; keep at least one checkpoint")
    if limits.checkpoint_minutes <= 0 or limits.sample_minutes < 0:
        raise ConfigError("--checkpoint-minutes must be positive and --sample-minutes at least 0")


def _source(data: str) -> str:
    """The data's name, such that it means the same from any directory."""
    return str(Path(data).resolve()) if Path(data).exists() else data


def _existing_run(out: Path) -> Any:
    """The configuration of the run in a directory, if one has begun there.

    Raises:
        ConfigError: if something else is there.
    """
    from nelbo.run import checkpoints_path, config_path, read_config

    if not config_path(out).exists():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ConfigError(f"{out} exists and is not a run; choose an empty or a new directory for --out")
        return None
    found = read_config(out)
    if not any(checkpoints_path(out).glob("step-*")):
        return None  # it ended before its first checkpoint, so there is nothing to go on with, or to lose
    return found


def _checked_run(args: Train) -> Any:
    """The run in ``args.out``, if one has begun there and it is the one that is asked for."""
    found = _existing_run(args.out)
    if found is None:
        return None
    if found.source != _source(args.data):
        raise ConfigError(
            f"{args.out} was trained on {found.source}, not on {_source(args.data)}; choose another --out"
        )
    before = to_json(found.config)
    for group, values in to_json(args.config).items():
        for name, value in values.items():
            if value != before[group][name]:
                raise ConfigError(
                    f"{args.out} was started with {as_option(name, before[group][name])}, this command says"
                    f" {as_option(name, value)}; choose another --out, or give what it was started with"
                )
    return found


def _new_run(args: Train, store: Any) -> Any:
    from nelbo.data import threshold_for
    from nelbo.run import RunConfig, write_config

    data = args.config.data
    if data.classes and not store.class_names:
        raise ConfigError(
            f"--classes needs classes, and {args.data} has none: put its images into two sub-folders or more,"
            " or leave --classes out"
        )
    threshold = threshold_for(store.hashes, data.held_out)
    class_names = tuple(store.class_names) if data.classes or data.labels else ()
    made = RunConfig(_source(args.data), threshold, args.config, class_names, args.preset)
    write_config(args.out, made)
    return made


def _draw_samples(reverse: Any, shape: Sequence[int], label: Any, path: Path) -> None:
    from nelbo.report.pictures import grid, save_picture, scale_for, to_pictures
    from nelbo.samplers import sample

    steps = min(_SAMPLE_STEPS, reverse.schedule.num_timesteps)
    *_, last = sample(reverse, (_SAMPLES, *shape), steps=steps, sampler="ddim", label=label)
    save_picture(grid(to_pictures(last.x_t), scale=scale_for(shape[1:])), path)
