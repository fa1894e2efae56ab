"""A run directory: what its files mean, and how a model is built from them.

RUN/
    config.json          everything resolved, the data's source and the held-out threshold included
    checkpoints/         see nelbo.training.checkpoint
    metrics.jsonl        figures by step         tensorboard/     the same for TensorBoard
    samples/             pictures                evaluation.json  how good it is
    profile.json         how wrong x̂_0 is at every t, for analytic variances and optimal paths
"""

import json
import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from nelbo.build import build
from nelbo.config import Config, ConfigError, DataConfig, from_json, to_json
from nelbo.data import IntakeOptions
from nelbo.evaluation.profile import ErrorProfile
from nelbo.files import written_whole
from nelbo.presets import DEFAULT_PRESET
from nelbo.reverse import ReverseProcess
from nelbo.training import checkpoint
from nelbo.training.checkpoint import Checkpoint, CheckpointError

FORMAT = 1


@dataclass(frozen=True)
class RunConfig:
    """What ``config.json`` holds.

    Attributes:
        source: where the images came from, as it was given.
        held_out_threshold: images whose content hash is below it are never trained on.
        config: the rest.
        class_names: of the classes that the network learns, in the order of their labels; empty for none.
        preset: where the configuration began.
        format: the version of this file.
    """

    source: str
    held_out_threshold: float
    config: Config
    class_names: tuple[str, ...] = ()
    preset: str = DEFAULT_PRESET
    format: int = FORMAT


def config_path(run: Path) -> Path:
    """Where a run keeps its configuration."""
    return run / "config.json"


def checkpoints_path(run: Path) -> Path:
    """Where a run keeps its checkpoints."""
    return run / "checkpoints"


def read_config(run: Path) -> RunConfig:
    """Read a run's configuration.

    Raises:
        ConfigError: if there is none, or it is not one.
    """
    path = config_path(run)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        why = "it has no config.json" if run.exists() else "there is no such directory"
        raise ConfigError(f"{run} is not a run: {why}; `nelbo train DATA --out {run}` makes one") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if isinstance(values, dict) and values.get("format") != FORMAT:
        raise ConfigError(
            f"{path} has format {values.get('format')}, this nelbo reads {FORMAT}; update nelbo to use it"
        )
    return from_json(RunConfig, values, str(path))


def write_json(values: Any, path: Path) -> None:
    """Write JSON whole or not at all."""
    text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with written_whole(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_profile(run: Path, checkpoint_name: str, profile: ErrorProfile) -> None:
    """Keep the error profile of a checkpoint."""
    write_json({"checkpoint": checkpoint_name, "profile": to_json(profile)}, run / "profile.json")


def read_profile(run: Path, checkpoint_name: str) -> ErrorProfile | None:
    """The error profile of a checkpoint, if an evaluation has left one and it is not of another checkpoint."""
    path = run / "profile.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}; `nelbo evaluate {run}` writes it anew") from error
    if not isinstance(values, dict) or values.get("checkpoint") != checkpoint_name:
        return None
    return from_json(ErrorProfile, values.get("profile"), f"{path}: profile")


def check_writable(directory: Path, option: str) -> None:
    """Refuse a directory that could not be made or written to, before any work is done. It makes nothing.

    Args:
        directory: where files will go; it need not exist.
        option: what the user chose it with, such as "--out".

    Raises:
        ConfigError: if something else stands in the way, or it is not permitted.
    """
    existing = next(place for place in (directory, *directory.absolute().parents) if os.path.lexists(place))
    if not existing.is_dir():
        raise ConfigError(
            f"{directory} cannot be written to: {existing} is no directory; choose another {option}"
        )
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(
            f"{directory} cannot be written to: no permission in {existing}; choose another {option}"
        )


def write_config(run: Path, config: RunConfig) -> None:
    """Write a run's configuration."""
    write_json(to_json(config), config_path(run))


def intake_options(data: DataConfig) -> IntakeOptions:
    """How the images of a configuration are read."""
    return IntakeOptions(data.image_size, data.channels, data.fit, data.background)


def newest_checkpoint(run: Path) -> Checkpoint:
    """The newest whole checkpoint of a run.

    Warns:
        UserWarning: if a newer one is damaged and an older one is taken.

    Raises:
        CheckpointError: if there is none; the message says what is wrong with those that are there.
    """
    found, problems = checkpoint.newest(checkpoints_path(run))
    if found is None:
        why = "; ".join(problems) if problems else "training has not written one yet"
        raise CheckpointError(f"{run} has no usable checkpoint: {why}; `nelbo train` goes on with the run")
    for problem in problems:
        warnings.warn(f"using {found.path.name}, as a newer checkpoint is damaged: {problem}", stacklevel=2)
    return found


@dataclass(frozen=True)
class Run:
    """A run on disk.

    Attributes:
        path: its directory.
        config: its configuration.
    """

    path: Path
    config: RunConfig

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return (self.config.config.data.channels, *self.config.config.data.image_size)

    def checkpoint_name(self, run_or_checkpoint: str | os.PathLike[str]) -> str:
        """The name of the checkpoint that ``load`` takes."""
        path = Path(run_or_checkpoint)
        return path.resolve().name if _is_checkpoint(path) else newest_checkpoint(self.path).path.name


def run_of(run_or_checkpoint: str | os.PathLike[str]) -> Run:
    """The run that a path means: its own directory, or that of one of its checkpoints.

    Raises:
        ConfigError: if it is not a run.
    """
    path = Path(run_or_checkpoint)
    run = path.resolve().parent.parent if _is_checkpoint(path) else path
    return Run(run, read_config(run))


def _is_checkpoint(path: Path) -> bool:
    return (path / "manifest.json").is_file()


def load(run_or_checkpoint: str | os.PathLike[str]) -> ReverseProcess:
    """Load a trained model: averaged (EMA) weights, eval mode, on the CPU.

    Args:
        run_or_checkpoint: a run directory, for its newest checkpoint, or one directory in its ``checkpoints``.

    Raises:
        ConfigError: if it is not a run.
        CheckpointError: if no checkpoint is whole.
    """
    path, run = Path(run_or_checkpoint), run_of(run_or_checkpoint)
    config = run.config.config
    found = checkpoint.read(path) if _is_checkpoint(path) else newest_checkpoint(run.path)
    # Dropout makes no difference to a loaded network.
    reverse = build(
        replace(config, network=replace(config.network, dropout=0.0)),
        num_classes=len(run.config.class_names) or None,
    )
    try:
        reverse.load_state_dict({f"network.{name}": value for name, value in found.tensors("ema").items()})
    except RuntimeError as error:
        reasons = str(error).splitlines()[1:]  # one for each weight; the first is enough
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        raise CheckpointError(
            f"{found.path} does not fit {config_path(run.path)}: {''.join(reasons[:1]).strip()}{more}"
        ) from error
    reverse.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return reverse.eval()
