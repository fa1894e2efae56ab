"""What is evaluated: a run or a model of another tool, and the images that it is judged on."""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from nelbo.data import IntakeOptions, Store, open_store
from nelbo.evaluation.profile import ErrorProfile
from nelbo.interop.diffusers import is_diffusers, read_diffusers
from nelbo.paths import PATHS
from nelbo.reverse import ReverseProcess
from nelbo.run import Run, checkpoints_path, intake_options, load, read_profile, run_of
from nelbo.variance import AbstractVariance, FixedLarge, FixedSmall

HELD_OUT, TRAIN, DATA = "held-out", "train", "data"
OWN, ANALYTIC = "own", "analytic"


@dataclass(frozen=True)
class Subject:
    """A model to evaluate.

    Attributes:
        path: as it was given.
        reverse: p_θ, in eval mode, on its device.
        image_shape: (C, H, W).
        checkpoint: the name of the run's checkpoint that was loaded; None for a foreign model.
        run: None for a foreign model.
        summary: what a foreign model is, in one line.
    """

    path: Path
    reverse: ReverseProcess
    image_shape: tuple[int, int, int]
    checkpoint: str | None = None
    run: Run | None = None
    summary: str = ""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes that it was trained on; none for one without, or for a foreign model."""
        return () if self.run is None else self.run.config.class_names

    @property
    def profile(self) -> ErrorProfile | None:
        """What an earlier evaluation of this very checkpoint measured."""
        if self.run is None or self.checkpoint is None:
            return None
        return read_profile(self.run.path, self.checkpoint)


@dataclass(frozen=True)
class Images:
    """The images to judge on.

    Attributes:
        name: "held-out", "train" where a run holds none out, or "data".
        judged: uint8 (N, C, H, W).
        train: as many of the training images; None without a run's own data.
        store: all of the run's images, memory-mapped, and
        trained_on: which of them are trained on; None without a run's own data.
        flip: whether training mirrors them.
    """

    name: str
    judged: np.ndarray
    train: np.ndarray | None = None
    store: np.ndarray | None = None
    trained_on: np.ndarray | None = None
    flip: bool = False


def open_subject(path: Path, device: torch.device) -> Subject:
    """Load a run, one of its checkpoints, or a diffusers folder.

    Raises:
        ValueError: if it is none of them, or damaged.
    """
    if is_diffusers(path):
        foreign = read_diffusers(path)
        if foreign.num_classes is not None:
            raise ValueError(
                f"{path} is a model of {foreign.num_classes} classes that never learned to go without: nelbo cannot"
                " evaluate or sample from it from the command line yet; in Python, give label= to its bound"
            )
        return Subject(path, foreign.reverse.to(device), foreign.image_shape, summary=foreign.summary)
    run = run_of(path)
    # The one whose name is reported, should training write another meanwhile.
    checkpoint = run.checkpoint_name(path)
    reverse = load(checkpoints_path(run.path) / checkpoint).to(device)
    return Subject(path, reverse, run.image_shape, checkpoint, run)


def images_of(subject: Subject, data: str | None, max_images: int) -> Images:
    """The run's own held-out and training images, or those that the user gives.

    Raises:
        ValueError: for a foreign model without data.
    """
    shown = sys.stderr.isatty()
    if data is not None:
        channels, height, width = subject.image_shape
        options = (
            IntakeOptions((height, width), channels)
            if subject.run is None
            else intake_options(subject.run.config.config.data)
        )
        store = open_store(data, options, progress=shown)
        return Images(DATA, _spread(store, np.arange(len(store.images)), max_images))
    if subject.run is None:
        raise ValueError(
            f"{subject.path} is a model without data of its own; give --data, images to judge it on"
        )
    config = subject.run.config
    store = open_store(config.source, intake_options(config.config.data), progress=shown)
    split = store.split(config.held_out_threshold)
    train, held_out = np.asarray(split.train), np.asarray(split.held_out)
    if len(held_out) == 0:
        return Images(TRAIN, _spread(store, train, max_images))
    judged = _spread(store, held_out, max_images)
    return Images(
        HELD_OUT, judged, _spread(store, train, len(judged)), store.images, train, config.config.data.flip
    )


def _spread(store: Store, indices: np.ndarray, at_most: int) -> np.ndarray:
    chosen = np.linspace(0, len(indices) - 1, min(at_most, len(indices))).round().astype(int)
    return np.asarray(store.images[indices[chosen]])


def chosen_variance(name: str, subject: Subject, profile: ErrorProfile | None) -> AbstractVariance:
    """The variance that ``--variance`` means.

    Raises:
        ValueError: if it is to be measured and has not been.
    """
    if name == OWN:
        return subject.reverse.variance
    if name == ANALYTIC:
        return _needed(profile, subject, "--variance analytic").analytic()
    return FixedLarge() if name == "fixed-large" else FixedSmall()


def chosen_path(
    name: str, num_steps: int, reverse: ReverseProcess, subject: Subject, profile: ErrorProfile | None
) -> list[int]:
    """The K steps that ``--path`` and ``--steps`` mean, for the variance of ``reverse``.

    Raises:
        ValueError: if K is out of range, or the best ones are wanted and nothing has been measured.
    """
    check_steps(num_steps, subject)
    if name != "optimal":
        return PATHS[name](reverse.schedule, num_steps)
    return _needed(profile, subject, "--path optimal").paths(reverse.schedule, reverse.variance)[num_steps]


def check_steps(num_steps: int, subject: Subject) -> None:
    """Refuse more steps than the model has.

    Raises:
        ValueError: saying how many there are.
    """
    num_timesteps = subject.reverse.schedule.num_timesteps
    if not 1 <= num_steps <= num_timesteps:
        raise ValueError(f"--steps is {num_steps}; choose 1 to {num_timesteps}, the T of {subject.path}")


def _needed(profile: ErrorProfile | None, subject: Subject, option: str) -> ErrorProfile:
    if profile is None:
        raise ValueError(
            f"{option} rests on the model's errors on training images, which nobody has measured for"
            f" {subject.checkpoint or 'this model'}: run `nelbo evaluate {subject.path}` first, without --data"
        )
    return profile
