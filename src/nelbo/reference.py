"""The decoder of Ho et al.'s published code: only for comparison with published numbers."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.gaussian import sum_over_dims

_FLOOR = 1e-12


@dataclass(frozen=True)
class ReferenceDecoder:
    """``discretized_gaussian_log_likelihood`` of the DDPM code, with its approximate normal CDF and its floor.

    Φ(z) ≈ ½ (1 + tanh(√(2/π) (z + 0.044715 z³))), ln max(mass, 1e-12).

    Not a probability: the 256 masses need not sum to 1, and the floor hides how wrong a far tail is. A bound that
    is to be trusted takes ``DiscretizedGaussian``.

    Equation: Ho2020 (13), as published code computes it

    Attributes:
        mean: (B, ...), on the scale of the data.
        log_variance: broadcastable to the mean.
    """

    mean: Tensor
    log_variance: Tensor

    def log_prob(self, x_0: Float[Tensor, "B *dims"]) -> Float[Tensor, "B"]:
        """What that code calls ln P(x_0).

        Args:
            x_0: (B, ...), on the 256-level grid u/127.5 − 1.

        Returns:
            (B,) nats, summed over dimensions; at least ln 1e-12 for each of them.
        """
        inverse_std = torch.exp(-0.5 * self.log_variance)
        below = _approximate_cdf((x_0 - self.mean - 1.0 / 255.0) * inverse_std)
        up_to = _approximate_cdf((x_0 - self.mean + 1.0 / 255.0) * inverse_std)
        mass = torch.where(x_0 < -0.999, up_to, torch.where(x_0 > 0.999, 1.0 - below, up_to - below))
        return sum_over_dims(mass.clamp(min=_FLOOR).log())


def _approximate_cdf(z: Tensor) -> Tensor:
    return 0.5 * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (z + 0.044715 * z**3)))
