"""The U-Net of Ho et al. 2020, appendix B, for any channels, size and depth."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int, Real
from torch import Tensor, nn

from nelbo.nn.architecture import check_attention_levels, check_positive, level_widths, num_heads
from nelbo.nn.embedding import TimeEmbedding
from nelbo.nn.fast import GroupNorm
from nelbo.nn.initialization import xavier, zero
from nelbo.nn.levels import BlockOptions, DownLevel, MiddleLevel, UpLevel

PATCHES = (1, 2, 4, 8)


class UNet(nn.Module):
    """A denoising U-Net: `network(x_t, clock, label) -> output`.

    The defaults are Ho's CIFAR-10 network (35.7 M parameters). Levels are counted from the finest, 0; each
    halves the side of the one before. The middle always has attention. The output starts at exactly zero.

    With `learned_variance`, the first half of the output's channels is the mean output, the second half the
    variance output (Nichol & Dhariwal 2021, 3.1), also with `patch` > 1.

    Args:
        in_channels: the channels of an image.
        out_channels: the channels of the output, both halves together; by default `in_channels`, or twice
            that with `learned_variance`.
        base_width: level i has `base_width * multipliers[i]` channels; the time
            embedding has as many sinusoids as level 0 has channels.
        multipliers: the widths of the levels, one per level, over `base_width`.
        blocks_per_level: residual blocks per level on the way down (one more on the way up).
        attention_levels: the levels whose residual blocks attention follows.
        heads: the number of attention heads, the same at every level.
        dropout: the probability of dropping an activation in the residual blocks (Ho's CIFAR-10: 0.1).
        groups: the groups of the normalisations; divides every level's width.
        learned_variance: whether the network also gives a variance output.
        num_classes: the number of classes, or None. The label -1 is 'no class', an embedding of its own.
        patch: 2, 4 or 8 folds squares of that side into channels before the first layer and unfolds them
            after the last, so that the finest level works on a smaller grid.
        head_dim: the width of an attention head, in place of `heads` (diffusers' `attention_head_dim`).
        eps: the normalisations' epsilon (weights converted from Ho's code: 1e-6).
        downsample_padding: see `Downsample` (weights converted from Ho's code: 0).
        flip_sin_to_cos: see `sinusoidal_embedding` (weights converted from Ho's code: False).
        freq_shift: see `sinusoidal_embedding` (weights converted from Ho's code: 1).

    Raises:
        ValueError: if the options do not make a network; the message says what to change.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int | None = None,
        *,
        base_width: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        blocks_per_level: int = 2,
        attention_levels: Sequence[int] = (1,),
        heads: int = 1,
        dropout: float | int = 0.0,
        groups: int = 32,
        learned_variance: bool = False,
        num_classes: int | None = None,
        patch: int = 1,
        head_dim: int | None = None,
        eps: float = 1e-5,
        downsample_padding: int = 1,
        flip_sin_to_cos: bool = True,
        freq_shift: float | int = 0,
    ) -> None:
        super().__init__()
        if out_channels is None:
            out_channels = in_channels * (2 if learned_variance else 1)
        for name, value in {
            "in_channels": in_channels,
            "out_channels": out_channels,
            "base_width": base_width,
            "blocks_per_level": blocks_per_level,
            "groups": groups,
            "heads": heads,
        }.items():
            check_positive(name, value)
        if learned_variance and out_channels % 2:
            raise ValueError(
                f"out_channels={out_channels} is odd: with learned_variance it counts the channels of the "
                f"mean and of the variance together, e.g. {2 * in_channels}"
            )
        if num_classes is not None and num_classes < 1:
            raise ValueError(
                f"num_classes={num_classes}: give at least 1, or None for a network without classes"
            )
        if patch not in PATCHES:
            raise ValueError(f"patch={patch} is unknown: choose one of {PATCHES}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout} is not in [0, 1): choose e.g. 0.0 or 0.1")
        widths = level_widths(base_width, multipliers, groups)
        check_attention_levels(attention_levels, len(widths))
        attended = [level in attention_levels for level in range(len(widths))]
        level_heads = [
            num_heads(width, heads, head_dim) if attention or level == len(widths) - 1 else 1
            for level, (width, attention) in enumerate(zip(widths, attended, strict=True))
        ]

        self.in_channels = in_channels
        self.out_channels = out_channels
        self.learned_variance = learned_variance
        self.num_classes = num_classes
        self.patch = patch
        self.size_divisor = patch * 2 ** (len(widths) - 1)

        emb_channels = 4 * widths[0]
        self.time_embedding = TimeEmbedding(
            widths[0], emb_channels, flip_sin_to_cos=flip_sin_to_cos, freq_shift=freq_shift
        )
        self.class_embedding: nn.Embedding | None = None
        if num_classes is not None:
            # Row 0 is 'no class', row i + 1 is class i: a label out of range fails, and never passes for -1.
            self.class_embedding = nn.Embedding(num_classes + 1, emb_channels)
            nn.init.normal_(self.class_embedding.weight, std=0.02)

        options = [BlockOptions(emb_channels, groups, dropout, eps, count) for count in level_heads]
        last = len(widths) - 1
        self.conv_in = xavier(nn.Conv2d(in_channels * patch**2, widths[0], 3, padding=1))
        self.down_levels = nn.ModuleList()
        skip_channels = [widths[0]]
        for level, (above, width) in enumerate(pairwise([widths[0], *widths])):
            self.down_levels.append(
                DownLevel(
                    above,
                    width,
                    blocks_per_level,
                    attention=attended[level],
                    downsample_padding=downsample_padding if level < last else None,
                    options=options[level],
                )
            )
            skip_channels += [width] * (blocks_per_level + (level < last))
        self.middle = MiddleLevel(widths[-1], options=options[-1])
        self.up_levels = nn.ModuleList()  # from the coarsest to the finest
        for level, (width, below) in reversed(list(enumerate(pairwise([*widths, widths[-1]])))):
            self.up_levels.append(
                UpLevel(
                    below,
                    width,
                    [skip_channels.pop() for _ in range(blocks_per_level + 1)],
                    attention=attended[level],
                    upsample=level > 0,
                    options=options[level],
                )
            )
        self.norm_out = GroupNorm(groups, widths[0], eps=eps)
        self.conv_out = zero(nn.Conv2d(widths[0], out_channels * patch**2, 3, padding=1))

    def check_size(self, height: int, width: int) -> None:
        """Refuse an image size that the network's depth does not divide.

        Args:
            height: of the images, in pixels.
            width: of the images, in pixels.

        Raises:
            ValueError: naming the size, the divisor, and the two nearest sizes that work per side.
        """
        divisor = self.size_divisor
        if height > 0 and width > 0 and height % divisor == 0 and width % divisor == 0:
            return
        advice = "; ".join(
            f"{name} {side}: the nearest that work are {lower} and {lower + divisor}"
            for name, side in (("height", height), ("width", width))
            if side % divisor or side < 1
            for lower in [max(side // divisor, 1) * divisor]
        )
        raise ValueError(
            f"images of height {height} and width {width} do not fit this network: both sides must be "
            f"divisible by {divisor} (patch {self.patch}, {len(self.down_levels) - 1} halvings). "
            f"{advice.capitalize()}. Resize or crop the images, or use fewer levels or a smaller patch"
        )

    def forward(
        self,
        x: Float[Tensor, "B C H W"],
        clock: Real[Tensor, "B"],
        label: Int[Tensor, "B"] | None = None,
    ) -> Float[Tensor, "B D H W"]:
        """Apply the network.

        Args:
            x: shape (B, in_channels, H, W), floating.
            clock: shape (B,), int64 or floating: what the network is told of the timestep.
            label: shape (B,), int64 in 0 … num_classes - 1, or -1 for no class; None is -1 for every image.

        Returns:
            Shape (B, out_channels, H, W); with `learned_variance`, the mean's channels, then the variance's.

        Raises:
            ValueError: if the images do not fit, or a label is given to a network without classes.
        """
        if x.shape[1] != self.in_channels:
            raise ValueError(f"images of {x.shape[1]} channels given to a network of {self.in_channels}")
        self.check_size(x.shape[2], x.shape[3])
        emb = self.time_embedding(clock)
        if self.class_embedding is not None:
            rows = torch.zeros_like(clock, dtype=torch.int64) if label is None else label + 1
            emb = emb + self.class_embedding(rows)
        elif label is not None:
            raise ValueError(
                "a label was given to a network without classes: leave it out, or set num_classes"
            )

        h = self.conv_in(F.pixel_unshuffle(x, self.patch))
        skips = [h]
        for level in self.down_levels:
            skips += level(skips[-1], emb)
        h = self.middle(skips[-1], emb)
        for level in self.up_levels:
            h = level(h, emb, skips)
        return F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(h))), self.patch)
