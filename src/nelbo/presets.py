"""Named configurations, each for a kind of machine and a length of patience."""

from dataclasses import dataclass, replace
from typing import Literal

from nelbo.config import Config, NetworkConfig, ProcessConfig
from nelbo.training.settings import Limits, TrainingConfig


@dataclass(frozen=True)
class Preset:
    """A configuration, how long it trains unless told otherwise, and whom it is for.

    Attributes:
        worth_from: training images from which it does better than those before it in the same time: of overnight,
            where that was measured (benchmarks/RESULTS.md); of ddpm, a guess.
    """

    summary: str
    config: Config
    limits: Limits
    worth_from: int = 0


# What the network learns, and how: found for ten minutes of two cores (benchmarks/RESULTS.md).
_PROCESS = ProcessConfig(schedule="cosine", parameterization="v", variance="learned-range")
_TRAINING = TrainingConfig(
    objective="hybrid",
    timestep_shift=2.0,
    optimizer="muon",
    batch_size=24,
    learning_rate=3e-3,
    muon_learning_rate=0.015,
    warmup_images=400,
    decay=True,
    weight_decay=0.01,
    beta2=0.99,
    ema_half_life=2_000,
)
_NETWORK = NetworkConfig(
    base_width=24,
    multipliers=(1, 2, 4, 4),
    blocks_per_level=1,
    attention_levels=(2, 3),
    groups=8,
    patch=2,
    coarse_pool=4,
    coarse_width=32,
)

PRESETS: dict[str, Preset] = {
    "quick": Preset(
        summary="ten minutes on two CPU cores",
        config=Config(process=_PROCESS, network=_NETWORK, training=_TRAINING),
        limits=Limits(max_minutes=8.5, sample_minutes=2.5, checkpoint_minutes=2.5),
    ),
    "overnight": Preset(
        summary="a night on a CPU, an hour on a small GPU",
        config=Config(
            process=_PROCESS,
            network=replace(_NETWORK, base_width=48, coarse_width=64),
            training=replace(_TRAINING, warmup_images=1_000, ema_half_life=20_000),
        ),
        limits=Limits(max_minutes=480.0, sample_minutes=20.0, checkpoint_minutes=10.0),
        worth_from=48_000,
    ),
    "ddpm": Preset(
        summary="Ho et al.'s CIFAR-10 network and recipe; needs a GPU",
        config=Config(network=NetworkConfig(dropout=0.1), training=TrainingConfig(warmup_images=640_000)),
        limits=Limits(max_steps=800_000, sample_minutes=30.0, checkpoint_minutes=15.0),
        worth_from=20_000_000,
    ),
}
DEFAULT_PRESET: Literal["quick"] = "quick"
