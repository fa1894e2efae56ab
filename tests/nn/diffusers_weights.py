"""Carries the weights of a `diffusers.UNet2DModel` over to a `nelbo.nn.UNet` of the same architecture."""

import re

import torch
from torch import Tensor

RENAMES = (
    (r"^down_blocks\.(\d+)\.downsamplers\.0\.conv\.", r"down_levels.\1.downsample.conv."),
    (r"^up_blocks\.(\d+)\.upsamplers\.0\.conv\.", r"up_levels.\1.upsample.conv."),
    (r"^down_blocks\.", "down_levels."),
    (r"^up_blocks\.", "up_levels."),
    (r"^mid_block\.resnets\.0\.", "middle.resnet_1."),
    (r"^mid_block\.resnets\.1\.", "middle.resnet_2."),
    (r"^mid_block\.attentions\.0\.", "middle.attention."),
    (r"^time_embedding\.(linear_\d)\.", r"time_embedding.\1."),
    (r"^conv_norm_out\.", "norm_out."),
    (r"\.to_out\.0\.", ".to_out."),
)


def rename(name: str) -> str:
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def translate(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A UNet2DModel's state dict under nelbo's names; 'no class' gets a row of zeros in front."""
    translated = {rename(name): value for name, value in state.items()}
    classes = translated.get("class_embedding.weight")
    if classes is not None:
        translated["class_embedding.weight"] = torch.cat([torch.zeros_like(classes[:1]), classes])
    return translated
