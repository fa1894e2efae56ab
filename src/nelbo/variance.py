"""Σ_θ, the variance of the reverse step: fixed at either end of its range, or learned within it.

β_t is right for data that is pure noise, β̃_t for data that is a single point; the truth lies between.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nelbo.schedule import NoiseSchedule, Table
from nelbo.tables import Timestep, gather


class AbstractVariance(ABC):
    """ln σ_t² of p_θ(x_{t−1}|x_t).

    Attributes:
        is_learned: whether the network's output holds a second block of channels for it.
    """

    is_learned: ClassVar[bool] = False

    @abstractmethod
    def log_variance(
        self, schedule: NoiseSchedule, t: Timestep, x_t: Tensor, variance_output: Tensor | None
    ) -> Tensor:
        """Ln σ_t², broadcastable to ``x_t``.

        Args:
            schedule: the schedule that p_θ runs on.
            t: 1..T, an int or (B,).
            x_t: (B, C, ...).
            variance_output: (B, C, ...), the network's second block of channels, if it is learned.
        """


def log_small_variances(schedule: NoiseSchedule) -> Table:
    """Ln β̃_t for t = 1..T, finite everywhere."""
    variances = schedule.posterior_variances.clone()
    # β̃_1 = 0 is no density: σ_1² := β̃_2, Ho's choice (β_1 where T = 1).
    variances[1] = schedule.posterior_variances[2] if schedule.num_timesteps > 1 else schedule.betas[1]
    return variances.log()


@dataclass(frozen=True)
class FixedLarge(AbstractVariance):
    """σ_t² = β_t, the lecture's "simplify as β_t I"."""

    def log_variance(
        self, schedule: NoiseSchedule, t: Timestep, x_t: Tensor, variance_output: Tensor | None = None
    ) -> Tensor:
        """See the base class."""
        return gather(schedule.betas.log(), t, x_t)


@dataclass(frozen=True)
class FixedSmall(AbstractVariance):
    """σ_t² = β̃_t, the variance of the forward posterior; σ_1² := β̃_2."""

    def log_variance(
        self, schedule: NoiseSchedule, t: Timestep, x_t: Tensor, variance_output: Tensor | None = None
    ) -> Tensor:
        """See the base class."""
        return gather(log_small_variances(schedule), t, x_t)


@dataclass(frozen=True)
class LearnedRange(AbstractVariance):
    """ln σ_t² = w ln β_t + (1 − w) ln β̃_t, w = (output + 1)/2: a Σ_θ for every pixel.

    Equation: Nichol2021 (15)
    """

    is_learned: ClassVar[bool] = True

    def log_variance(
        self, schedule: NoiseSchedule, t: Timestep, x_t: Tensor, variance_output: Tensor | None
    ) -> Tensor:
        """See the base class."""
        if variance_output is None:
            raise ValueError(
                "LearnedRange needs a network with 2·C output channels; use FixedLarge or FixedSmall"
            )
        log_small = gather(log_small_variances(schedule), t, x_t)
        log_large = gather(schedule.betas.log(), t, x_t)
        return torch.lerp(
            log_small.expand_as(variance_output),
            log_large.expand_as(variance_output),
            (variance_output + 1) / 2,
        )
