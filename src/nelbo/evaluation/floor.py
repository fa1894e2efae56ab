"""What a schedule, a variance and a decoder cost whatever the network says."""

from dataclasses import dataclass

import numpy as np
import torch

from nelbo.bound import floor
from nelbo.reverse import ReverseProcess
from nelbo.units import bits_per_dim


@dataclass(frozen=True)
class Floor:
    """The bound of a network that knows x_0, bits/dim.

    Attributes:
        transitions: Σ L_{t−1}, t = 2..T: what σ² ≠ β̃ costs.
        reconstruction: L_0: what σ_1 costs, on these images.
        inner: L_0 of a value other than 0 and 255.
        outer: L_0 of black or white.
        outer_share: how many of the values are black or white.
        steps: L_0, L_1 … L_{T−1}, by t = 1..T.
    """

    transitions: float
    reconstruction: float
    inner: float
    outer: float
    outer_share: float
    steps: tuple[float, ...]

    @property
    def bits_per_dim(self) -> float:
        """Both together."""
        return self.transitions + self.reconstruction


def floor_on(reverse: ReverseProcess, images: np.ndarray) -> Floor:
    """The floor on these images, uint8 (N, C, H, W): exact, as a value costs the same wherever it stands."""
    two_values = torch.tensor([[1 / 255], [1.0]], dtype=torch.float64, device=reverse.schedule.betas.device)
    bound = floor(reverse, two_values)
    inner, outer = bits_per_dim(bound.reconstruction, 1).tolist()
    outer_share = float(np.mean([((chunk == 0) | (chunk == 255)).mean() for chunk in images]))
    transitions = bits_per_dim(bound.transitions[0], 1).tolist()
    reconstruction = outer_share * outer + (1 - outer_share) * inner
    return Floor(
        sum(transitions, 0.0), reconstruction, inner, outer, outer_share, (reconstruction, *transitions)
    )
