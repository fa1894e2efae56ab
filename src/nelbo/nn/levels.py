"""One resolution of the U-Net on the way down, in the middle, and on the way up."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nelbo.nn.blocks import AttentionBlock, Downsample, ResnetBlock, Upsample


@dataclass(frozen=True)
class BlockOptions:
    """What all blocks of one level share."""

    emb_channels: int
    groups: int
    dropout: float | int
    eps: float
    heads: int

    def resnet(self, in_channels: int, out_channels: int) -> ResnetBlock:
        """Build a residual block."""
        return ResnetBlock(
            in_channels,
            out_channels,
            self.emb_channels,
            groups=self.groups,
            dropout=self.dropout,
            eps=self.eps,
        )

    def attention(self, channels: int) -> AttentionBlock:
        """Build an attention block."""
        return AttentionBlock(channels, heads=self.heads, groups=self.groups, eps=self.eps)


class DownLevel(nn.Module):
    """Residual blocks, each with or without attention, then a halving unless the level is the coarsest.

    Args:
        in_channels: the channels that come in.
        out_channels: the level's width.
        num_blocks: the number of residual blocks.
        attention: whether attention follows each residual block.
        downsample_padding: see `Downsample`; None for no downsampling.
        options: what the blocks share.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_blocks: int,
        *,
        attention: bool,
        downsample_padding: int | None,
        options: BlockOptions,
    ) -> None:
        super().__init__()
        ins = [in_channels] + [out_channels] * (num_blocks - 1)
        self.resnets = nn.ModuleList(options.resnet(width, out_channels) for width in ins)
        self.attentions = nn.ModuleList(
            options.attention(out_channels) if attention else nn.Identity() for _ in ins
        )
        self.downsample = (
            None if downsample_padding is None else Downsample(out_channels, padding=downsample_padding)
        )

    def forward(self, h: Float[Tensor, "B C H W"], emb: Float[Tensor, "B E"]) -> list[Tensor]:
        """Return every activation that the way up will read, in order; the last is the level's output."""
        outputs = []
        for resnet, attention in zip(self.resnets, self.attentions, strict=True):
            h = attention(resnet(h, emb))
            outputs.append(h)
        if self.downsample is not None:
            outputs.append(self.downsample(h))
        return outputs


class MiddleLevel(nn.Module):
    """A residual block, attention, a residual block, at the coarsest resolution.

    Args:
        channels: the channels of input and output.
        options: what the blocks share.
    """

    def __init__(self, channels: int, *, options: BlockOptions) -> None:
        super().__init__()
        self.resnet_1 = options.resnet(channels, channels)
        self.attention = options.attention(channels)
        self.resnet_2 = options.resnet(channels, channels)

    def forward(self, h: Float[Tensor, "B C H W"], emb: Float[Tensor, "B E"]) -> Float[Tensor, "B C H W"]:
        """Map h, shape (B, channels, H, W), to the same shape."""
        out: Tensor = self.resnet_2(self.attention(self.resnet_1(h, emb)), emb)
        return out


class UpLevel(nn.Module):
    """Residual blocks that each read one skip connection, then a doubling unless the level is the finest.

    Args:
        in_channels: the channels that come in from below.
        out_channels: the level's width.
        skip_channels: the channels of each skip connection, in the order they are read.
        attention: whether attention follows each residual block.
        upsample: whether the level ends in a doubling.
        options: what the blocks share.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        skip_channels: list[int],
        *,
        attention: bool,
        upsample: bool,
        options: BlockOptions,
    ) -> None:
        super().__init__()
        ins = [in_channels] + [out_channels] * (len(skip_channels) - 1)
        self.resnets = nn.ModuleList(
            options.resnet(width + skip, out_channels) for width, skip in zip(ins, skip_channels, strict=True)
        )
        self.attentions = nn.ModuleList(
            options.attention(out_channels) if attention else nn.Identity() for _ in ins
        )
        self.upsample: nn.Module = Upsample(out_channels) if upsample else nn.Identity()

    def forward(
        self, h: Float[Tensor, "B C H W"], emb: Float[Tensor, "B E"], skips: list[Tensor]
    ) -> Float[Tensor, "B D h w"]:
        """Return the level's output; takes the skip connections that it reads off the end of `skips`."""
        for resnet, attention in zip(self.resnets, self.attentions, strict=True):
            h = attention(resnet(torch.cat([h, skips.pop()], dim=1), emb))
        out: Tensor = self.upsample(h)
        return out
