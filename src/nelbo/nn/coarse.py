"""Two U-Nets, one for each end of the noise: where only the large shapes show, a coarse grid is enough."""

import math

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int, Real
from torch import Tensor, nn

from nelbo.nn.initialization import zero
from nelbo.nn.unet import UNet


class CoarseToFine(nn.Module):
    """One network for low noise, one on the means of squares for high noise: `network(x_t, clock, label)`.

    At a signal-to-noise ratio of 0.1 a detail is far below the noise, while the mean of 4×4 pixels has a ratio 16
    times as high: what can be known is in the means. There, the output is what the coarse network says of the
    means, and g(clock) times what they leave of x_t. For ε and v that is exact where x̂_0 has no detail.

    Args:
        fine: for clocks below `boundary`.
        coarse: for the others; it sees the means, times `pool`, so that their noise has its old size.
        pool: the side of the squares.
        boundary: the first clock that the coarse network takes.

    Raises:
        ValueError: if the two do not speak of the same images and classes.
    """

    def __init__(self, fine: UNet, coarse: UNet, *, pool: int, boundary: int) -> None:
        super().__init__()
        for name in ("in_channels", "out_channels", "learned_variance", "num_classes"):
            if getattr(fine, name) != getattr(coarse, name):
                raise ValueError(
                    f"{name} is {getattr(fine, name)} in the fine network and {getattr(coarse, name)} in the"
                    " coarse one: give both the same"
                )
        self.fine = fine
        self.coarse = coarse
        self.detail_gain = zero(nn.Linear(coarse.time_embedding.linear_2.out_features, 1))
        self.pool = pool
        self.boundary = boundary
        self.num_classes = fine.num_classes
        self.size_divisor = math.lcm(fine.size_divisor, pool * coarse.size_divisor)

    def check_size(self, height: int, width: int) -> None:
        """Refuse an image size that one of the two cannot take.

        Raises:
            ValueError: naming sizes that work.
        """
        self.fine.check_size(height, width)
        if height % self.size_divisor or width % self.size_divisor:
            raise ValueError(
                f"images of height {height} and width {width} do not fit this network: for its coarse part, on"
                f" squares of {self.pool} pixels, both sides must be divisible by {self.size_divisor}. Resize or"
                " crop the images, or do without the coarse part (--coarse-pool 1)"
            )

    def forward(
        self,
        x: Float[Tensor, "B C H W"],
        clock: Real[Tensor, "B"],
        label: Int[Tensor, "B"] | None = None,
    ) -> Float[Tensor, "B D H W"]:
        """Apply the one or the other to each image; arguments and result as of `UNet`."""
        is_high = clock >= self.boundary
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            # To ask how many are high would make the host wait, and the shapes change from step to step.
            coarse, fine = self._coarse(x, clock, label), self.fine(x, clock, label)
            return torch.where(is_high[:, None, None, None], coarse, fine)
        if bool(is_high.all()):
            return self._coarse(x, clock, label)
        if not bool(is_high.any()):
            out: Tensor = self.fine(x, clock, label)
            return out
        low, high = (part.nonzero().squeeze(1) for part in (~is_high, is_high))
        parts = [
            network(x[part], clock[part], None if label is None else label[part])
            for network, part in ((self.fine, low), (self._coarse, high))
        ]
        return torch.cat(parts)[torch.argsort(torch.cat([low, high]))]

    def _coarse(self, x: Tensor, clock: Tensor, label: Tensor | None) -> Tensor:
        means = F.avg_pool2d(x, self.pool)
        gain = self.detail_gain(F.silu(self.coarse.time_embedding(clock)))
        detail = gain[:, :, None, None] * (x - _enlarged(means, self.pool))
        out = _enlarged(self.coarse(means * self.pool, clock, label), self.pool)
        return out + F.pad(detail, (0, 0, 0, 0, 0, out.shape[1] - detail.shape[1]))


def _enlarged(x: Tensor, times: int) -> Tensor:
    return F.interpolate(x, scale_factor=float(times), mode="nearest")
