"""Tiny models that diffusers makes and saves."""

import json

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

BLOCKS = {False: ("DownBlock2D", "UpBlock2D"), True: ("AttnDownBlock2D", "AttnUpBlock2D")}


@pytest.fixture
def unet():
    """Make a `UNet2DModel`, every weight random."""

    def make(*, widths=(8, 16), attention=(1,), **options):
        blocks = [BLOCKS[level in attention] for level in range(len(widths))]
        defaults = {"sample_size": 8, "layers_per_block": 1, "norm_num_groups": 4}
        network = UNet2DModel(
            block_out_channels=widths,
            down_block_types=tuple(down for down, _ in blocks),
            up_block_types=tuple(up for _, up in reversed(blocks)),
            **{**defaults, **options},
        )
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.3
                one = 1.0 if "norm" in name and name.endswith("weight") else 0.0
                parameter.copy_(one + scale * torch.randn(parameter.shape, generator=generator))
        return network.eval()

    return make


@pytest.fixture
def saved(unet, tmp_path):
    """Save a pipeline as `DDPMPipeline.save_pretrained` does; returns the folder."""

    def save(network=None, scheduler=None, **options):
        pipeline = DDPMPipeline(unet() if network is None else network, scheduler or DDPMScheduler())
        pipeline.save_pretrained(tmp_path, **options)
        return tmp_path

    return save


@pytest.fixture(scope="session")
def edit():
    """Set keys of a JSON file; `...` removes one."""

    def edited(path, **values):
        held = {**json.loads(path.read_text()), **values}
        path.write_text(json.dumps({key: value for key, value in held.items() if value is not ...}))

    return edited
