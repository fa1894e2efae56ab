"""The names that diffusers gives the weights of a `UNet2DModel`, and those of `nelbo.nn.UNet`."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

RENAMES = (
    # diffusers before 0.15, as in the published google/ddpm-*; diffusers renames these when it loads
    (r"\.attentions\.(\d+)\.query\.", r".attentions.\1.to_q."),
    (r"\.attentions\.(\d+)\.key\.", r".attentions.\1.to_k."),
    (r"\.attentions\.(\d+)\.value\.", r".attentions.\1.to_v."),
    (r"\.attentions\.(\d+)\.proj_attn\.", r".attentions.\1.to_out.0."),
    (r"^down_blocks\.(\d+)\.downsamplers\.0\.conv\.", r"down_levels.\1.downsample.conv."),
    (r"^up_blocks\.(\d+)\.upsamplers\.0\.conv\.", r"up_levels.\1.upsample.conv."),
    (r"^down_blocks\.", "down_levels."),
    (r"^up_blocks\.", "up_levels."),
    (r"^mid_block\.resnets\.0\.", "middle.resnet_1."),
    (r"^mid_block\.resnets\.1\.", "middle.resnet_2."),
    (r"^mid_block\.attentions\.0\.", "middle.attention."),
    (r"^conv_norm_out\.", "norm_out."),
    (r"\.to_out\.0\.", ".to_out."),
)


def rename(name: str) -> str:
    """The name that `UNet` gives what a `UNet2DModel` calls ``name``."""
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def translate(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A `UNet2DModel`'s state dict under `UNet`'s names; 'no class' gets a row of zeros in front."""
    translated = {rename(name): value for name, value in state.items()}
    classes = translated.get("class_embedding.weight")
    if classes is not None:
        translated["class_embedding.weight"] = torch.cat([torch.zeros_like(classes[:1]), classes])
    return translated
