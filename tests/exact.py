"""Gaussian data, N(m, s²) in every dimension: the one case in which the whole model is known in closed form."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import ndtr
from torch import Tensor

from nelbo import X0, FixedLarge, Gaussian, NoiseSchedule, ReverseProcess
from nelbo.tables import gather
from nelbo.variance import AbstractVariance

_LEVELS = 2 * torch.arange(256, dtype=torch.float64) / 255 - 1


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

    def reverse(self, variance: AbstractVariance | None = None, *, clip: bool = False) -> ReverseProcess:
        """p_θ with that network; σ² = β unless given."""
        return ReverseProcess(self.network, self.schedule, X0(), variance or FixedLarge(), clip=clip).eval()

    def images(self, num: int, shape: tuple[int, ...], seed: int) -> np.ndarray:
        """The data, rounded to 256 levels, of which the first and the last hold what lies beyond."""
        x = self.m + self.s * np.random.default_rng(seed).standard_normal((num, *shape))
        return np.clip(np.round((x + 1) * 127.5), 0, 255).astype(np.uint8)

    def level_probabilities(self) -> Tensor:
        """How often each of the 256 levels is drawn, (256,)."""
        edges = (_LEVELS[1:] - 1 / 255 - self.m) / self.s
        below = np.concatenate([[0.0], ndtr(edges.numpy()), [1.0]])
        return torch.from_numpy(np.diff(below))

    def errors_by_level(self) -> Tensor:
        """E(x_0 − x̂_0)² over ε, (256, T+1): x_0 − x̂_0 = (1 − g √ᾱ)(x_0 − m) − g √(1−ᾱ) ε."""
        bias, slope = self._error()
        return bias**2 + slope**2

    def posterior_variances(self) -> Tensor:
        """Var(x_0|x_t), (T+1,)."""
        ab = self.schedule.alphas_bar
        return self.s**2 * (1 - ab) / (ab * self.s**2 + 1 - ab)

    def bound_by_level(self, variances: Tensor) -> Tensor:
        """The bound of an unclipped process for a pixel of each level, bits, (256, T+1): L_T, L_0, L_1 … L_{T−1}.

        Args:
            variances: σ_t², (T+1,); the sentinel is not read.
        """
        ab = self.schedule.alphas_bar
        nats = torch.empty(256, len(ab), dtype=torch.float64)
        nats[:, 0] = 0.5 * (ab[-1] * _LEVELS**2 - ab[-1] - torch.log1p(-ab[-1]))
        ratio = self.schedule.posterior_variances[2:] / variances[2:]
        c = ab[1:-1].sqrt() * self.schedule.betas[2:] / (1 - ab[2:])
        moved = c**2 * self.errors_by_level()[:, 2:] / variances[2:]
        nats[:, 2:] = 0.5 * (ratio - 1 - ratio.log() + moved)
        # Gauss and Hermite's rule over ε, for the mass of each level under N(x̂_0, σ_1²).
        nodes, weights = np.polynomial.hermite_e.hermegauss(120)
        bias, slope = self._error()
        residual = (bias[:, 1, None] + slope[1] * torch.from_numpy(nodes)).numpy()
        sigma = float(variances[1]) ** 0.5
        mass = ndtr((1 / 255 - abs(residual)) / sigma) - ndtr((-1 / 255 - abs(residual)) / sigma)
        mass[0] = ndtr((1 / 255 + residual[0]) / sigma)
        mass[-1] = ndtr((1 / 255 - residual[-1]) / sigma)
        nats[:, 1] = torch.from_numpy(-np.log(mass) @ weights / weights.sum())
        return nats / math.log(2)

    def _error(self) -> tuple[Tensor, Tensor]:
        """x_0 − x̂_0 = bias − slope ε: (256, T+1), (T+1,)."""
        ab = self.schedule.alphas_bar
        gain = ab.sqrt() * self.s**2 / (ab * self.s**2 + 1 - ab)
        return (_LEVELS - self.m)[:, None] * (1 - gain * ab.sqrt()), gain * (1 - ab).sqrt()


@dataclass(frozen=True)
class ExactVariance(AbstractVariance):
    """Var(x_{t−1}|x_t) = β̃_t + c_t² Var(x_0|x_t)."""

    s: float = 0.5

    def log_variance(self, schedule, t, x_t, variance_output=None):
        ab, before = schedule.alphas_bar, torch.cat([torch.ones(1).double(), schedule.alphas_bar[:-1]])
        c = before.sqrt() * schedule.betas / (1 - ab)
        var_x_0 = self.s**2 * (1 - ab) / (ab * self.s**2 + 1 - ab)
        return gather((schedule.posterior_variances + c**2 * var_x_0).log(), t, x_t)
