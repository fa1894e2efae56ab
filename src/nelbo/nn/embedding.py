"""The clock that the network reads: sinusoids of the timestep, then two linear layers.

Source: Ho et al. 2020, appendix B ("Transformer sinusoidal position embedding"); Vaswani et al. 2017, 3.5.
"""

import math

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Real
from torch import Tensor, nn

from nelbo.nn.initialization import xavier

MAX_PERIOD = 10_000


def sinusoidal_embedding(
    clock: Real[Tensor, "B"], dim: int, *, flip_sin_to_cos: bool = True, freq_shift: float | int = 0
) -> Float[Tensor, "B {dim}"]:
    """Cosines and sines of the clock at geometrically spaced frequencies.

    `w_k = 10000 ** (-k / (dim // 2 - freq_shift))`, `k = 0 … dim // 2 - 1`; the row is
    `[cos(w t), sin(w t)]`, with a zero appended when `dim` is odd.

    Args:
        clock: shape (B,), integer or floating, any range.
        dim: the length of the embedding.
        flip_sin_to_cos: cosines first (diffusers' `UNet2DModel`'s default); Ho's code has the sines first.
        freq_shift: 0 is diffusers' `UNet2DModel`'s default; Ho's code has 1.

    Returns:
        Shape (B, dim), always float32, whatever the clock's dtype: in bfloat16, neighbouring clocks coincide.

    Raises:
        ValueError: if `dim` leaves no frequencies.
    """
    half = dim // 2
    if half - freq_shift <= 0:
        raise ValueError(
            f"an embedding of length {dim} with freq_shift={freq_shift} has no frequencies: "
            f"the length must be at least {2 * (int(freq_shift) + 1)}"
        )
    exponents = -math.log(MAX_PERIOD) * torch.arange(half, dtype=torch.float32, device=clock.device)
    angles = clock.float()[:, None] * torch.exp(exponents / (half - freq_shift))
    sin, cos = torch.sin(angles), torch.cos(angles)
    embedding = torch.cat([cos, sin] if flip_sin_to_cos else [sin, cos], dim=-1)
    return F.pad(embedding, (0, 1)) if dim % 2 else embedding


class TimeEmbedding(nn.Module):
    """Sinusoids of the clock, a linear layer, SiLU, a linear layer.

    Args:
        dim: the number of sinusoids.
        out_dim: the length of the embedding that the residual blocks are given.
        flip_sin_to_cos: see `sinusoidal_embedding`.
        freq_shift: see `sinusoidal_embedding`.
    """

    def __init__(
        self, dim: int, out_dim: int, *, flip_sin_to_cos: bool = True, freq_shift: float | int = 0
    ) -> None:
        super().__init__()
        sinusoidal_embedding(torch.zeros(1), dim, freq_shift=freq_shift)  # refuses a bad length now
        self.dim = dim
        self.flip_sin_to_cos = flip_sin_to_cos
        self.freq_shift = freq_shift
        self.linear_1 = xavier(nn.Linear(dim, out_dim))
        self.linear_2 = xavier(nn.Linear(out_dim, out_dim))

    def forward(self, clock: Real[Tensor, "B"]) -> Float[Tensor, "B E"]:
        """Embed the clock, shape (B,), as shape (B, out_dim) in the dtype of the weights (or of autocast)."""
        sinusoids = sinusoidal_embedding(
            clock, self.dim, flip_sin_to_cos=self.flip_sin_to_cos, freq_shift=self.freq_shift
        )
        hidden = F.silu(self.linear_1(sinusoids.to(self.linear_1.weight.dtype)))
        emb: Tensor = self.linear_2(hidden)
        return emb
