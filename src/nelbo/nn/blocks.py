"""The four blocks of the U-Net, each computing exactly what diffusers' `UNet2DModel` computes.

Source: Ho et al. 2020, appendix B: the PixelCNN++ backbone, a Wide ResNet with group normalisation.
"""

import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn

from nelbo.nn.fast import GroupNorm, attention
from nelbo.nn.initialization import xavier, zero


class ResnetBlock(nn.Module):
    """Two 3x3 convolutions around the time embedding, and a shortcut.

    `h = conv1(silu(norm1(x))) + proj(silu(emb))`, then `shortcut(x) + conv2(dropout(silu(norm2(h))))`.
    Starts as its shortcut: `conv2` is zero.

    Args:
        in_channels: the channels of the input.
        out_channels: the channels of the output; the shortcut is a 1x1 convolution when they differ.
        emb_channels: the length of the time embedding.
        groups: the groups of the normalisations.
        dropout: the probability of dropping an activation before `conv2`.
        eps: the normalisations' epsilon.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_channels: int,
        *,
        groups: int = 32,
        dropout: float | int = 0.0,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.norm1 = GroupNorm(groups, in_channels, eps=eps)
        self.conv1 = xavier(nn.Conv2d(in_channels, out_channels, 3, padding=1))
        self.time_emb_proj = xavier(nn.Linear(emb_channels, out_channels))
        self.norm2 = GroupNorm(groups, out_channels, eps=eps)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.conv_shortcut: nn.Module = (
            nn.Identity() if in_channels == out_channels else xavier(nn.Conv2d(in_channels, out_channels, 1))
        )

    def forward(self, x: Float[Tensor, "B C H W"], emb: Float[Tensor, "B E"]) -> Float[Tensor, "B D H W"]:
        """Map x (B, in_channels, H, W) and emb (B, emb_channels) to (B, out_channels, H, W)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.time_emb_proj(F.silu(emb))[:, :, None, None]
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        out: Tensor = self.conv_shortcut(x) + h
        return out


class AttentionBlock(nn.Module):
    """Self-attention over the pixels, with a normalisation before and a residual around it.

    `x + to_out(softmax(q k^T / sqrt(channels / heads)) v)`, with q, k, v linear in `norm(x)`.
    Starts as the identity: `to_out` is zero.

    Args:
        channels: the channels of input and output.
        heads: the number of heads; divides `channels`.
        groups: the groups of the normalisation.
        eps: the normalisation's epsilon.
    """

    def __init__(self, channels: int, *, heads: int = 1, groups: int = 32, eps: float = 1e-5) -> None:
        super().__init__()
        if heads < 1 or channels % heads:
            raise ValueError(
                f"{channels} channels do not divide into {heads} attention heads: choose one that divides"
            )
        self.heads = heads
        self.group_norm = GroupNorm(groups, channels, eps=eps)
        self.to_q = xavier(nn.Linear(channels, channels))
        self.to_k = xavier(nn.Linear(channels, channels))
        self.to_v = xavier(nn.Linear(channels, channels))
        self.to_out = zero(nn.Linear(channels, channels))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Map x, shape (B, channels, H, W), to the same shape."""
        pixels = self.group_norm(x).flatten(2).transpose(1, 2)  # (B, HW, C): a view when channels_last
        q, k, v = (
            linear(pixels).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, HW, C / heads)
            for linear in (self.to_q, self.to_k, self.to_v)
        )
        attended = attention(q, k, v)
        out: Tensor = self.to_out(attended.transpose(1, 2).flatten(2))
        return x + out.transpose(1, 2).reshape(x.shape)


class Downsample(nn.Module):
    """A 3x3 convolution of stride 2 that halves height and width.

    Args:
        channels: the channels of input and output.
        padding: 1 pads every side (the default of diffusers' `UNet2DModel`); 0 pads right and bottom only,
            as Ho's TensorFlow code did and the weights converted from it want.
    """

    def __init__(self, channels: int, *, padding: int = 1) -> None:
        super().__init__()
        if padding not in (0, 1):
            raise ValueError(
                f"downsample padding {padding} is unknown: choose 1 (all sides) or 0 (right and bottom)"
            )
        self.conv = xavier(nn.Conv2d(channels, channels, 3, stride=2, padding=padding))
        self.padding = padding

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C h w"]:
        """Map x, shape (B, channels, H, W), to (B, channels, H / 2, W / 2)."""
        out: Tensor = self.conv(x if self.padding else F.pad(x, (0, 1, 0, 1)))
        return out


class Upsample(nn.Module):
    """Each pixel repeated 2x2, then a 3x3 convolution.

    Args:
        channels: the channels of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = xavier(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C h w"]:
        """Map x, shape (B, channels, H, W), to (B, channels, 2 H, 2 W)."""
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out
