"""The U-Net, the moving average of its weights, and a copy of it for drawing."""

from nelbo.nn.coarse import CoarseToFine
from nelbo.nn.ema import EMA
from nelbo.nn.inference import InBfloat16
from nelbo.nn.unet import UNet

__all__ = ["EMA", "CoarseToFine", "InBfloat16", "UNet"]
