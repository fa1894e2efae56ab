"""What the network predicts: the noise, the data or the velocity. Each determines the others, given x_t.

x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε      v = √ᾱ_t ε − √(1−ᾱ_t) x_0
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from nelbo.schedule import NoiseSchedule
from nelbo.tables import Timestep, gather


class AbstractParameterization(ABC):
    """How a network's output stands for x_0 and ε, and what it is trained towards."""

    @abstractmethod
    def x_0(self, schedule: NoiseSchedule, output: Tensor, x_t: Tensor, t: Timestep) -> Tensor:
        """The estimate of x_0, (B, ...), that the output stands for."""

    @abstractmethod
    def eps(self, schedule: NoiseSchedule, output: Tensor, x_t: Tensor, t: Timestep) -> Tensor:
        """The estimate of ε, (B, ...), that the output stands for."""

    @abstractmethod
    def target(self, schedule: NoiseSchedule, x_0: Tensor, eps: Tensor, t: Timestep) -> Tensor:
        """What a perfect network would say, (B, ...)."""


def x_0_from_eps(schedule: NoiseSchedule, eps: Tensor, x_t: Tensor, t: Timestep) -> Tensor:
    """x_0 = (x_t − √(1−ᾱ_t) ε)/√ᾱ_t: the closed form, solved for the data.

    Equation: Ho2020 (15)
    Lecture: x_0 as a function of x_t and ε
    """
    noise_scale = gather(schedule.one_minus_alphas_bar.sqrt(), t, x_t)
    return (x_t - noise_scale * eps) / gather(schedule.alphas_bar.sqrt(), t, x_t)


def eps_from_x_0(schedule: NoiseSchedule, x_0: Tensor, x_t: Tensor, t: Timestep) -> Tensor:
    """ε = (x_t − √ᾱ_t x_0)/√(1−ᾱ_t): the closed form, solved for the noise."""
    signal_scale = gather(schedule.alphas_bar.sqrt(), t, x_t)
    return (x_t - signal_scale * x_0) / gather(schedule.one_minus_alphas_bar.sqrt(), t, x_t)


@dataclass(frozen=True)
class Epsilon(AbstractParameterization):
    """The network predicts the noise ε, as in the lecture."""

    def x_0(self, schedule: NoiseSchedule, output: Tensor, x_t: Tensor, t: Timestep) -> Tensor:
        """See the base class."""
        return x_0_from_eps(schedule, output, x_t, t)

    def eps(self, schedule: NoiseSchedule, output: Tensor, x_t: Tensor, t: Timestep) -> Tensor:
        """See the base class."""
        return output

    def target(self, schedule: NoiseSchedule, x_0: Tensor, eps: Tensor, t: Timestep) -> Tensor:
        """See the base class."""
        return eps


@dataclass(frozen=True)
class X0(AbstractParameterization):
    """The network predicts the data x_0."""

    def x_0(self, schedule: NoiseSchedule, output: Tensor, x_t: Tensor, t: Timestep) -> Tensor:
        """See the base class."""
        return output

    def eps(self, schedule: NoiseSchedule, output: Tensor, x_t: Tensor, t: Timestep) -> Tensor:
        """See the base class."""
        return eps_from_x_0(schedule, output, x_t, t)

    def target(self, schedule: NoiseSchedule, x_0: Tensor, eps: Tensor, t: Timestep) -> Tensor:
        """See the base class."""
        return x_0


@dataclass(frozen=True)
class V(AbstractParameterization):
    """The network predicts the velocity v = √ᾱ_t ε − √(1−ᾱ_t) x_0.

    Equation: Salimans2022 appendix D
    """

    def x_0(self, schedule: NoiseSchedule, output: Tensor, x_t: Tensor, t: Timestep) -> Tensor:
        """x_0 = √ᾱ_t x_t − √(1−ᾱ_t) v."""
        signal_scale = gather(schedule.alphas_bar.sqrt(), t, x_t)
        return signal_scale * x_t - gather(schedule.one_minus_alphas_bar.sqrt(), t, x_t) * output

    def eps(self, schedule: NoiseSchedule, output: Tensor, x_t: Tensor, t: Timestep) -> Tensor:
        """ε = √(1−ᾱ_t) x_t + √ᾱ_t v."""
        signal_scale = gather(schedule.alphas_bar.sqrt(), t, x_t)
        return gather(schedule.one_minus_alphas_bar.sqrt(), t, x_t) * x_t + signal_scale * output

    def target(self, schedule: NoiseSchedule, x_0: Tensor, eps: Tensor, t: Timestep) -> Tensor:
        """V = √ᾱ_t ε − √(1−ᾱ_t) x_0."""
        signal_scale = gather(schedule.alphas_bar.sqrt(), t, x_0)
        return signal_scale * eps - gather(schedule.one_minus_alphas_bar.sqrt(), t, x_0) * x_0
