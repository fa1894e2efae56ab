"""Everything that a run is made of, resolved, as plain values that JSON can hold. No torch here."""

import dataclasses
import math
import types
import typing
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from nelbo.training.settings import TrainingConfig

Resolved = TypeVar("Resolved")


@dataclass(frozen=True)
class DataConfig:
    """How images are brought to one size, and which of them training never sees."""

    image_size: tuple[int, int] = (64, 64)
    """Height and width of the images, in pixels."""
    channels: Literal[1, 3] = 3
    """3 for colour, 1 for grayscale."""
    fit: Literal["crop", "pad"] = "crop"
    """Bring other shapes to size by cropping the centre or by padding with the background."""
    background: tuple[int, int, int] = (255, 255, 255)
    """What transparent pixels are laid on."""
    flip: bool = False
    """Mirror half of the training images; leave it off where left and right differ, as in text."""
    held_out: float = 0.1
    """Share of the images kept for evaluation (at most 1,000)."""
    classes: bool = False
    """Learn the data's classes (its sub-folders, or the labels of an .npz), so that samples can be had by class."""
    labels: str = ""
    """Learn the classes of this table: a .csv or .jsonl with file_name and label, names relative to DATA."""


@dataclass(frozen=True)
class ProcessConfig:
    """The diffusion: its schedule, what the network predicts, the variance of a reverse step."""

    schedule: Literal["linear", "cosine", "fine"] = "linear"
    """How β grows from step 1 to step T; fine is for a low bits/dim: a cosine whose first step hides no pixel."""
    num_timesteps: int = 1000
    """T."""
    parameterization: Literal["eps", "x0", "v"] = "eps"
    """What the network predicts: the noise, the image or the velocity."""
    variance: Literal["fixed-large", "fixed-small", "learned-range"] = "fixed-large"
    """σ²: β_t, β̃_t, or learned between the two (with the hybrid or variational objective)."""
    clip: bool = True
    """Keep the estimate of x_0 within [-1, 1]."""


@dataclass(frozen=True)
class NetworkConfig:
    """The U-Net."""

    base_width: int = 128
    """Channels of the finest level."""
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    """Channels of each level, in multiples of the base width; each level halves the grid."""
    blocks_per_level: int = 2
    """Residual blocks per level."""
    attention_levels: tuple[int, ...] = (1,)
    """Levels with self-attention; 0 is the finest."""
    heads: int = 1
    """Attention heads."""
    groups: int = 32
    """Groups of the normalisations."""
    dropout: float = 0.0
    """Probability of dropping an activation in training."""
    patch: Literal[1, 2, 4, 8] = 1
    """Fold squares of this side into channels: a smaller grid, a faster network."""
    coarse_pool: Literal[1, 2, 4, 8] = 1
    """A second U-Net, for high noise, where only large shapes show: on the means of squares of this side; 1 for
    none."""
    coarse_from: float = 0.7
    """The share of T above which the coarse network takes over."""
    coarse_width: int = 48
    """Channels of the coarse network's finest level."""
    coarse_multipliers: tuple[int, ...] = (1, 2, 3)
    """Channels of each of its levels, in multiples of its width."""
    coarse_attention_levels: tuple[int, ...] = (1, 2)
    """Its levels with self-attention."""


@dataclass(frozen=True)
class Config:
    """A whole run, but for its data source and its length."""

    data: DataConfig = field(default_factory=DataConfig)
    process: ProcessConfig = field(default_factory=ProcessConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)


class ConfigError(ValueError):
    """A configuration that cannot be used; the message says what was given and what is allowed."""


def to_json(config: Any) -> dict[str, Any]:
    """A configuration as nested dictionaries."""
    return dataclasses.asdict(config)


def from_json(cls: type[Resolved], values: Any, where: str = "config.json") -> Resolved:
    """Build a configuration from nested dictionaries.

    Raises:
        ConfigError: naming a field that is unknown, missing or of the wrong kind.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{where} must be an object, not {type(values).__name__}")
    hints = typing.get_type_hints(cls)
    if unknown := sorted(set(values) - set(hints)):
        raise ConfigError(f"{where} has an unknown field {unknown[0]!r}; was it written by a newer nelbo?")
    required = [f.name for f in dataclasses.fields(typing.cast(Any, cls)) if _is_required(f)]
    if missing := [name for name in required if name not in values]:
        raise ConfigError(
            f"{where} lacks the field {missing[0]!r}; it is damaged, or not a nelbo configuration"
        )
    made = {name: _value(hints[name], value, f"{where}: {name}") for name, value in values.items()}
    return cls(**made)


def _is_required(of: "dataclasses.Field[Any]") -> bool:
    return of.default is dataclasses.MISSING and of.default_factory is dataclasses.MISSING


def _value(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_json(typing.cast(type, hint), value, where)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _value(arguments[0], value, where)
    if origin is tuple and isinstance(value, list | tuple):
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) == len(value):
            return tuple(_value(kind, item, where) for kind, item in zip(kinds, value, strict=True))
    elif origin is Literal:
        for argument in arguments:
            if type(value) is type(argument) and value == argument:  # True is no 1 here
                return value
        raise ConfigError(f"{where} is {value!r}; choose one of {', '.join(map(str, arguments))}")
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif isinstance(hint, type) and type(value) is hint:
        return value
    raise ConfigError(f"{where} is {value!r}; it must be {_in_words(hint)}")


_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def _in_words(hint: Any) -> str:
    if typing.get_origin(hint) is not tuple:
        return _KINDS.get(hint, str(hint))
    of = typing.get_args(hint)
    count = "any number" if of[-1] is Ellipsis else str(len(of))
    return f"a list of {count} of: {_in_words(of[0])}"


def as_option(name: str, value: Any) -> str:
    """A field and its value as one would type it: --multipliers 1 2."""
    option = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{option}" if value else f"--no-{option}"
    return f"--{option} {' '.join(map(str, value)) if isinstance(value, list | tuple) else value}"


def check(config: Config) -> None:
    """Refuse what no run could be made of, before anything is written. The network checks its own numbers.

    Raises:
        ConfigError: naming the option and what is allowed.
    """
    data, training = config.data, config.training
    network = config.network
    for values, name, allowed, good in (
        (network, "coarse_from", "a share of T between 0 and 1, such as 0.7", 0 < network.coarse_from < 1),
        (data, "held_out", "a share between 0 and 1, such as 0.1", 0 < data.held_out < 1),
        (training, "batch_size", "at least 1", training.batch_size >= 1),
        (training, "micro_batch", "at least 1", training.micro_batch is None or training.micro_batch >= 1),
        (training, "learning_rate", "a positive number", 0 < training.learning_rate < math.inf),
        (training, "muon_learning_rate", "a positive number", 0 < training.muon_learning_rate < math.inf),
        (training, "warmup_images", "at least 0", training.warmup_images >= 0),
        (training, "weight_decay", "at least 0", 0 <= training.weight_decay < math.inf),
        (training, "beta2", "at least 0 and below 1", 0 <= training.beta2 < 1),
        (training, "label_dropout", "a share, at least 0 and below 1", 0 <= training.label_dropout < 1),
        (training, "timestep_shift", "a positive number, such as 2", 0 < training.timestep_shift < math.inf),
        (training, "clip_norm", "a positive number", training.clip_norm > 0),
        (training, "ema_half_life", "a positive number of images", training.ema_half_life > 0),
        (training, "ema_warmup", "a positive share, such as 0.05", training.ema_warmup > 0),
    ):
        if not good:
            raise ConfigError(f"--{name.replace('_', '-')} is {getattr(values, name)}; give {allowed}")
    if config.process.variance == "learned-range" and training.objective not in ("hybrid", "variational"):
        raise ConfigError(
            f"--variance learned-range cannot be learned from --objective {training.objective};"
            " choose --objective hybrid or variational"
        )
    if training.timestep_shift != 1 and (
        training.timesteps != "uniform" or training.objective not in ("simple", "hybrid")
    ):
        raise ConfigError(
            f"--timestep-shift {training.timestep_shift:g} weights the simple part of a loss; choose --objective"
            " simple or hybrid and --timesteps uniform, or leave the shift at 1"
        )
    if training.timesteps == "loss-second-moment" and training.objective not in ("variational", "weighted"):
        raise ConfigError(
            "--timesteps loss-second-moment is for the bound's uneven terms, not for --objective"
            f" {training.objective}; choose --objective variational or weighted, or --timesteps uniform"
        )
