"""The U-Net, and the moving average of its weights."""

from nelbo.nn.coarse import CoarseToFine
from nelbo.nn.ema import EMA
from nelbo.nn.unet import UNet

__all__ = ["EMA", "CoarseToFine", "UNet"]
