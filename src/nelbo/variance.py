"""Σ_θ, the variance of the reverse step: fixed at either end of its range, learned within it, or measured.

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

    def check(self, schedule: NoiseSchedule) -> None:  # noqa: B027 (most fit every schedule)
        """Refuse a schedule that it has no numbers for; called once, where a process is made.

        Raises:
            ValueError: saying which steps are missing.
        """


def log_small_variances(schedule: NoiseSchedule) -> Table:
    """Ln β̃_t for t = 1..T, finite everywhere."""
    variances = schedule.posterior_variances.clone()
    # β̃_1 = 0 is no density: σ_1² := β̃_2, Ho's choice (β_1 where T = 1).
    variances[1] = schedule.posterior_variances[2] if schedule.num_timesteps > 1 else schedule.betas[1]
    return variances.log()


@dataclass(frozen=True)
class FixedLarge(AbstractVariance):
    """σ_t² = β_t.

    Lecture: simplify as β_t I

    Attributes:
        first_is_small: σ_1² := β̃_2, as for ``FixedSmall``. Ho's published code does so; with ``ReferenceDecoder``
            it gives the L_0 of published numbers.
    """

    first_is_small: bool = False

    def log_variance(
        self, schedule: NoiseSchedule, t: Timestep, x_t: Tensor, variance_output: Tensor | None = None
    ) -> Tensor:
        """See the base class."""
        log_variances = schedule.betas.log()
        if self.first_is_small:
            log_variances[1] = log_small_variances(schedule)[1]
        return gather(log_variances, t, x_t)


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


@dataclass(frozen=True, eq=False)
class Analytic(AbstractVariance):
    """σ_t² = β̃_t + c_t² e_t, e_t = E‖x_0 − x̂_0(x_t)‖²/d: the best one for the mean that the network has.

    As μ̃_t − μ_θ = c_t (x_0 − x̂_0), the expected divergence of a step is ½ [ln(σ²/β̃_t) − 1 + (β̃_t + c_t² e_t)/σ²]
    per dimension, least where σ² is that numerator. c_t² = β̃_t (SNR_{t−1} − SNR_t), of the schedule at hand, which
    may be respaced; e_t belongs to the network, and is measured once, with the clipping of the process.

    Equation: Bao2022 theorem 1, for the exact mean; Bao2022b, for any mean

    Attributes:
        errors: e_t, float64 (T+1,), indexed by the t of the network's own schedule, respaced or not.
        decoder_variances: σ², float64 (T+1,), of the last step if it begins at t, indexed likewise: L_0 has no
            closed form, so its variance is searched for.
    """

    errors: Tensor
    decoder_variances: Tensor

    def __post_init__(self) -> None:
        if self.errors.ndim != 1 or self.errors.shape != self.decoder_variances.shape or len(self.errors) < 2:
            raise ValueError(
                f"errors has shape {tuple(self.errors.shape)} and decoder_variances"
                f" {tuple(self.decoder_variances.shape)}; both need T+1 values, from t = 0 to t = T"
            )

    def check(self, schedule: NoiseSchedule) -> None:
        """See the base class."""
        last = int(schedule.clock.max()) + 1
        if last >= len(self.errors):
            raise ValueError(
                f"Analytic has errors for t = 1..{len(self.errors) - 1}, and the schedule goes to t = {last};"
                " measure them on the schedule that the network was trained on"
            )

    def log_variance(
        self, schedule: NoiseSchedule, t: Timestep, x_t: Tensor, variance_output: Tensor | None = None
    ) -> Tensor:
        """See the base class."""
        original = schedule.clock + 1
        errors = self.errors.to(schedule.betas)[original[2:]]
        variances = schedule.posterior_variances[2:] * (1 - torch.diff(schedule.snr[1:]) * errors)
        first = self.decoder_variances.to(schedule.betas)[original[:2]]
        return gather(torch.cat([first, variances]).log(), t, x_t)
