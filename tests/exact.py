"""Gaussian data, N(m, s²) in every dimension: the one case in which the whole model is known in closed form."""

from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo import Gaussian, NoiseSchedule
from nelbo.tables import gather
from nelbo.variance import AbstractVariance


@dataclass(frozen=True)
class GaussianData:
    schedule: NoiseSchedule
    m: float = 0.3
    s: float = 0.5

    def marginal(self, x: Tensor, t: int) -> Gaussian:
        """q(x_t), x_0 integrated out."""
        ab = self.schedule.alphas_bar[t]
        return Gaussian(ab.sqrt() * self.m * torch.ones_like(x), (ab * self.s**2 + 1 - ab).log())

    def network(self, x_t: Tensor, clock: Tensor) -> Tensor:
        """E[x_0|x_t], for a process that predicts x_0 (clock = t − 1)."""
        ab = gather(self.schedule.alphas_bar, clock + 1, x_t)
        gain = ab.sqrt() * self.s**2 / (ab * self.s**2 + 1 - ab)
        return self.m + gain * (x_t - ab.sqrt() * self.m)


@dataclass(frozen=True)
class ExactVariance(AbstractVariance):
    """Var(x_{t−1}|x_t) = β̃_t + c_t² Var(x_0|x_t)."""

    s: float = 0.5

    def log_variance(self, schedule, t, x_t, variance_output=None):
        ab, before = schedule.alphas_bar, torch.cat([torch.ones(1).double(), schedule.alphas_bar[:-1]])
        c = before.sqrt() * schedule.betas / (1 - ab)
        var_x_0 = self.s**2 * (1 - ab) / (ab * self.s**2 + 1 - ab)
        return gather((schedule.posterior_variances + c**2 * var_x_0).log(), t, x_t)
