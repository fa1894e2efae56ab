"""Everything that a run is made of, resolved, as plain values that JSON can hold. No torch here."""

import dataclasses
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


@dataclass(frozen=True)
class ProcessConfig:
    """The diffusion: its schedule, what the network predicts, the variance of a reverse step."""

    schedule: Literal["linear", "cosine"] = "linear"
    """How β grows from step 1 to step T."""
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


def from_json(cls: type[Resolved], values: dict[str, Any], where: str = "config.json") -> Resolved:
    """Build a configuration from nested dictionaries.

    Raises:
        ConfigError: naming a field that is unknown, missing or of the wrong kind.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{where} must be an object, not {type(values).__name__}")
    hints = typing.get_type_hints(cls)
    if unknown := sorted(set(values) - set(hints)):
        raise ConfigError(f"{where} has an unknown field {unknown[0]!r}; was it written by a newer nelbo?")
    made = {name: _value(hints[name], value, f"{where}: {name}") for name, value in values.items()}
    return cls(**made)


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
        if value in arguments:
            return value
        raise ConfigError(f"{where} is {value!r}; choose one of {', '.join(map(str, arguments))}")
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif isinstance(hint, type) and type(value) is hint:
        return value
    raise ConfigError(f"{where} is {value!r}, which is not a {hint}")
