"""From a configuration to an untrained model. This is where the networks and the mathematics meet."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from nelbo.config import Config, ProcessConfig
from nelbo.nn import CoarseToFine, UNet
from nelbo.parameterization import X0, AbstractParameterization, Epsilon, V
from nelbo.reverse import ReverseProcess
from nelbo.schedule import NoiseSchedule
from nelbo.variance import AbstractVariance, FixedLarge, FixedSmall, LearnedRange

_SCHEDULES: dict[str, Callable[[int], NoiseSchedule]] = {
    "linear": NoiseSchedule.linear,
    "cosine": NoiseSchedule.cosine,
    "fine": partial(NoiseSchedule.cosine, s=0.0),
}
_PARAMETERIZATIONS: dict[str, Callable[[], AbstractParameterization]] = {"eps": Epsilon, "x0": X0, "v": V}
_VARIANCES: dict[str, Callable[[], AbstractVariance]] = {
    "fixed-large": FixedLarge,
    "fixed-small": FixedSmall,
    "learned-range": LearnedRange,
}


def build(config: Config, *, num_classes: int | None = None, seed: int | None = None) -> ReverseProcess:
    """The untrained model of a configuration, on the CPU.

    Args:
        config: what to build.
        num_classes: of a network with classes; None for one without.
        seed: of the initial weights; the configuration's own if None.

    Raises:
        ValueError: if the network does not fit the images; the message names the sizes that work.
    """
    process = config.process
    learned = process.variance == "learned-range"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed if seed is None else seed)
        network = _network(config, learned_variance=learned, num_classes=num_classes)
    network.check_size(*config.data.image_size)
    return ReverseProcess(
        network,
        _schedule(process),
        _PARAMETERIZATIONS[process.parameterization](),
        _VARIANCES[process.variance](),
        process.clip,
    )


def _network(config: Config, **options: Any) -> UNet | CoarseToFine:
    n = config.network
    names = ("blocks_per_level", "heads", "groups", "dropout")
    options |= {"in_channels": config.data.channels, **{name: getattr(n, name) for name in names}}
    fine = UNet(
        base_width=n.base_width, multipliers=n.multipliers, attention_levels=n.attention_levels, patch=n.patch,
        **options,
    )  # fmt: skip
    if n.coarse_pool == 1:
        return fine
    coarse = UNet(
        base_width=n.coarse_width, multipliers=n.coarse_multipliers, attention_levels=n.coarse_attention_levels,
        **options,
    )  # fmt: skip
    boundary = round(n.coarse_from * config.process.num_timesteps)
    return CoarseToFine(fine, coarse, pool=n.coarse_pool, boundary=boundary)


def _schedule(process: ProcessConfig) -> NoiseSchedule:
    return _SCHEDULES[process.schedule](process.num_timesteps)
