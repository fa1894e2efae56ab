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


def _widened(values: Tensor) -> Tensor:
    """In float32 or better: half precision has no digits for a variance or a bin of 1/255."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


@dataclass(frozen=True)
class Gaussian:
    """A diagonal normal, N(x; mean, exp(log_variance)).

    Attributes:
        mean: (B, ...).
        log_variance: broadcastable to the mean; −inf makes a Dirac, which can be sampled but has no density: its
            ``log_prob`` is NaN.
    """

    mean: Tensor
    log_variance: Tensor

    @property
    def shape(self) -> torch.Size:
        """The shape of a draw."""
        return torch.Size(np.broadcast_shapes(self.mean.shape, self.log_variance.shape))

    def reparameterize(self, eps: Tensor) -> Tensor:
        """The draw that the standard normal draw ``eps`` stands for: mean + σ·ε, shape (B, ...).

        At q(x_t|x_0) it is x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε, at q(x_1|x_0) it is x_1 = √(1−β_1) x_0 + √β_1 ε.

        Lecture: x_t as a function of x_0 and ε

        Raises:
            ValueError: if ``eps`` has another shape; broadcast, one draw would stand for several.
        """
        if eps.shape != self.shape:
            raise ValueError(f"the noise has shape {tuple(eps.shape)}, and the draw {tuple(self.shape)}")
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
        x, mean, log_variance = map(_widened, (x, self.mean, self.log_variance))
        squared = (x - mean) ** 2 * torch.exp(-log_variance)
        return sum_over_dims(-0.5 * (squared + log_variance + math.log(2 * math.pi)))

    def entropy(self) -> Float[Tensor, "B"]:
        """½ ln(2πe σ²), (B,) nats summed over dimensions."""
        log_variance = _widened(self.log_variance).expand(self.shape)
        return sum_over_dims(0.5 * (log_variance + math.log(2 * math.pi) + 1))


def kl_divergence(q: Gaussian, p: Gaussian) -> Float[Tensor, "B"]:
    """KL(q ‖ p) of two diagonal normals.

    ½ Σ [σ_q²/σ_p² − 1 − ln(σ_q²/σ_p²) + (μ_q − μ_p)²/σ_p²]. With r = ln(σ_q²/σ_p²), of which the variances make
    expm1(r) − r ≈ r²/2, rounding leaves an error of ε|r| in each dimension, of ε where exp(r) − 1 stands for expm1.

    Returns:
        (B,) nats, summed over dimensions; +inf where q is a Dirac, NaN where p is one.
    """
    q_log_variance, p_log_variance = _widened(q.log_variance), _widened(p.log_variance)
    log_ratio = q_log_variance - p_log_variance
    squared = (_widened(q.mean) - p.mean) ** 2 * torch.exp(-p_log_variance)
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
            (B,) nats, summed over dimensions; it and its gradient are finite and right however far the mean is.
        """
        half_bin = 1.0 / 255.0
        x_0, mean, log_variance = map(_widened, (x_0, self.mean, self.log_variance))
        inverse_std = torch.exp(-0.5 * log_variance)
        residual = x_0 - mean
        lower = (residual - half_bin) * inverse_std
        upper = (residual + half_bin) * inverse_std
        is_first = x_0 < -1.0 + half_bin
        is_last = x_0 > 1.0 - half_bin
        # Φ(b) − Φ(a) = Φ(−a) − Φ(−b): take the side on which both are tails, where log Φ keeps its digits.
        mirrored = residual > 0
        near = torch.where(mirrored, -lower, upper)
        far = torch.where(mirrored, -upper, lower)
        near = torch.where(is_first, upper, torch.where(is_last, -lower, near))
        log_near = _log_ndtr(near)
        log_gap = _log_ndtr(far) - log_near
        # An open bin has no far edge. (It gets a harmless gap, so that the branch not taken has a gradient.)
        is_open = is_first | is_last
        log_gap = torch.where(is_open, -torch.ones_like(log_gap), log_gap)
        return sum_over_dims(log_near + torch.where(is_open, 0.0, _log_1_minus_exp(log_gap)))


# (Below, each branch is given only what is its own: NaN · 0 in the gradient of the one not taken would be NaN.)


def _log_ndtr(z: Tensor) -> Tensor:
    """Ln Φ(z), as torch has it, whose gradient cancels in the tail: in float32 4 % at z = −1e3, all at −1e5."""
    is_tail = z < -1
    tail = torch.where(is_tail, z, -1.0)
    log_tail = torch.log(0.5 * torch.special.erfcx(-math.sqrt(0.5) * tail)) - 0.5 * tail**2
    return torch.where(is_tail, log_tail, torch.special.log_ndtr(torch.where(is_tail, -1.0, z)))


def _log_1_minus_exp(x: Tensor) -> Tensor:
    """Ln(1 − eˣ) for x < 0, next to 0 and far from it alike."""
    is_far = x < -math.log(2)
    far, near = torch.where(is_far, x, -1.0), torch.where(is_far, -0.5, x)
    return torch.where(is_far, torch.log1p(-torch.exp(far)), torch.log(-torch.expm1(near)))
