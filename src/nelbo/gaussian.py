"""The two distributions that a diffusion model is made of, and the divergence between them.

Log-probabilities, entropies and divergences are in nats, summed over every dimension but the first.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.randomness import randn


def sum_over_dims(values: Float[Tensor, "B *dims"]) -> Float[Tensor, "B"]:
    """Sum over every dimension but the first."""
    return values.flatten(1).sum(1) if values.ndim > 1 else values


@dataclass(frozen=True)
class Gaussian:
    """A diagonal normal, N(x; mean, exp(log_variance)).

    Attributes:
        mean: (B, ...).
        log_variance: broadcastable to the mean; −inf makes a Dirac, which can be sampled.
    """

    mean: Tensor
    log_variance: Tensor

    @property
    def shape(self) -> torch.Size:
        """The shape of a draw."""
        return torch.Size(np.broadcast_shapes(self.mean.shape, self.log_variance.shape))

    def reparameterize(self, eps: Tensor) -> Tensor:
        """The draw that the standard normal draw ``eps`` stands for: mean + σ·ε, shape (B, ...)."""
        return self.mean + torch.exp(0.5 * self.log_variance) * eps

    def sample(self, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw x ~ N(mean, exp(log_variance)), shape (B, ...)."""
        mean = self.mean.expand(self.shape)
        return self.reparameterize(randn(mean, generator=generator))

    def log_prob(self, x: Float[Tensor, "B *dims"]) -> Float[Tensor, "B"]:
        """Ln N(x; mean, variance).

        Args:
            x: (B, ...).

        Returns:
            (B,) nats, summed over dimensions.
        """
        squared = (x - self.mean) ** 2 * torch.exp(-self.log_variance)
        return sum_over_dims(-0.5 * (squared + self.log_variance + math.log(2 * math.pi)))

    def entropy(self) -> Float[Tensor, "B"]:
        """½ ln(2πe σ²), (B,) nats summed over dimensions."""
        return sum_over_dims(0.5 * (self.log_variance.expand(self.shape) + math.log(2 * math.pi) + 1))


def kl_divergence(q: Gaussian, p: Gaussian) -> Float[Tensor, "B"]:
    """KL(q ‖ p) of two diagonal normals.

    ½ Σ [σ_q²/σ_p² − 1 − ln(σ_q²/σ_p²) + (μ_q − μ_p)²/σ_p²], written with expm1 so that nearly equal
    variances lose no digits.

    Returns:
        (B,) nats, summed over dimensions; +inf where q is a Dirac.
    """
    log_ratio = q.log_variance - p.log_variance
    squared = (q.mean - p.mean) ** 2 * torch.exp(-p.log_variance)
    shape = np.broadcast_shapes(q.shape, p.shape)
    return sum_over_dims((0.5 * (torch.expm1(log_ratio) - log_ratio + squared)).expand(shape))


@runtime_checkable
class Decoder(Protocol):
    """p_θ(x_0|x_1), made of a mean and a log-variance: ``DiscretizedGaussian``, or what takes its place."""

    @property
    def mean(self) -> Tensor:
        """(B, ...), on the scale of the data."""

    @property
    def log_variance(self) -> Tensor:
        """Broadcastable to the mean."""

    def log_prob(self, x_0: Float[Tensor, "B *dims"]) -> Float[Tensor, "B"]:
        """Ln p_θ(x_0|x_1), (B,) nats summed over dimensions."""


@dataclass(frozen=True)
class DiscretizedGaussian:
    """The decoder: the mass that a normal gives to each of 256 levels on [−1, 1]; the outer bins are open.

    P(level k) = Φ((x_k + 1/255 − μ)/σ) − Φ((x_k − 1/255 − μ)/σ), with −∞ below the first level and +∞
    above the last, so that the 256 masses sum to 1. There is no floor.

    Equation: Ho2020 (13)
    Lecture: L_0, reconstruction, simple decoder

    Attributes:
        mean: (B, ...), on the scale of the data.
        log_variance: broadcastable to the mean.
    """

    mean: Tensor
    log_variance: Tensor

    def log_prob(self, x_0: Float[Tensor, "B *dims"]) -> Float[Tensor, "B"]:
        """Ln P(x_0).

        Args:
            x_0: (B, ...), on the 256-level grid u/127.5 − 1.

        Returns:
            (B,) nats, summed over dimensions; finite and right however far the mean is.
        """
        half_bin = 1.0 / 255.0
        inverse_std = torch.exp(-0.5 * self.log_variance)
        residual = x_0 - self.mean
        lower = (residual - half_bin) * inverse_std
        upper = (residual + half_bin) * inverse_std
        is_first = x_0 < -1.0 + half_bin
        is_last = x_0 > 1.0 - half_bin
        # Φ(b) − Φ(a) = Φ(−a) − Φ(−b): take the side on which both are tails, where log Φ keeps its digits.
        mirrored = residual > 0
        near = torch.where(mirrored, -lower, upper)
        far = torch.where(mirrored, -upper, lower)
        near = torch.where(is_first, upper, torch.where(is_last, -lower, near))
        log_near = torch.special.log_ndtr(near)
        log_gap = torch.special.log_ndtr(far) - log_near
        # An open bin has no far edge. (It gets a harmless gap, so that the branch not taken has a gradient.)
        is_open = is_first | is_last
        log_gap = torch.where(is_open, -torch.ones_like(log_gap), log_gap)
        return sum_over_dims(log_near + torch.where(is_open, 0.0, torch.log(-torch.expm1(log_gap))))
