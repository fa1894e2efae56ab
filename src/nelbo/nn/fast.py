"""Two layers that PyTorch computes slowly on a CPU, computed another way. Elsewhere they are PyTorch's own.

What each gains is in benchmarks/RESULTS.md ("What each lever gains").
"""

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn

_SMALL_GRID = 1024
"""Below so many pixels, PyTorch's kernel for channels-last normalisation reads a few channels at a time."""
_FEW_PIXELS = 1024
"""Up to so many, the matrix of attention is small enough to be written down."""


class GroupNorm(nn.GroupNorm):
    """Group normalisation; on a CPU, small channels-last grids go through the contiguous layout and back."""

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Normalise, in the layout of x."""
        is_slow = (
            x.device.type == "cpu"
            and not torch.compiler.is_compiling()
            and x.shape[2] * x.shape[3] < _SMALL_GRID
            and x.is_contiguous(memory_format=torch.channels_last)
        )
        if not is_slow:
            return super().forward(x)
        return super().forward(x.contiguous()).contiguous(memory_format=torch.channels_last)


def attention(
    q: Float[Tensor, "B heads N D"], k: Float[Tensor, "B heads N D"], v: Float[Tensor, "B heads N D"]
) -> Float[Tensor, "B heads N D"]:
    """softmax(q kᵀ/√D) v. In bfloat16 on a CPU as it is written, which is faster there than the fused kernel."""
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.shape[2] <= _FEW_PIXELS:
        return torch.softmax((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2), dim=-1) @ v
    return F.scaled_dot_product_attention(q, k, v)
