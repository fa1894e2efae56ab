"""A `UNet` from the configuration and the weights of a diffusers `UNet2DModel`."""

from math import gcd
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from nelbo.interop.diffusers_config import ConfigFile
from nelbo.interop.diffusers_weights import translate
from nelbo.nn import UNet

DEFAULTS: dict[str, Any] = {
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (224, 448, 672, 896),
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "dropout": 0.0,
    "act_fn": "silu",
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
    "num_class_embeds": None,
    "num_train_timesteps": None,
}
# what diffusers' EMAModel.save_pretrained adds
IGNORED = (
    "decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step", "use_ema_warmup",
)  # fmt: skip
# keys of which UNet has one value
ONLY = {
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "mid_block_type": "UNetMidBlock2D",
    "mid_block_scale_factor": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "resnet_time_scale_shift": "default",
    "class_embed_type": None,
}
BLOCKS = {"DownBlock2D": False, "AttnDownBlock2D": True}
PREFIX = "UNetRes"  # old names of the blocks begin with it, and diffusers drops it


def read_unet(config: ConfigFile, weights: Path) -> UNet:
    """The network, float32, on the CPU.

    Args:
        config: a `UNet2DModel`'s, with ``DEFAULTS``.
        weights: its safetensors file, in any floating dtype.

    Raises:
        ValueError: if the configuration asks for what `UNet` has not, or the weights do not fit it.
    """
    with torch.device("meta"):
        network = _untrained(config)
    state = _read_weights(weights)
    expected = network.state_dict()
    if not config["add_attention"]:  # with every weight zero, attention is the identity
        middle = {name: value for name, value in expected.items() if name.startswith("middle.attention.")}
        state |= {name: torch.zeros(value.shape) for name, value in middle.items()}
    _check_fit(state, expected, weights, config.path)
    network.load_state_dict(state, assign=True)
    return network


def image_size(config: ConfigFile) -> tuple[int, int]:
    """(H, W) of a `UNet2DModel`'s images."""
    given = config["sample_size"]
    if isinstance(given, list | tuple):
        sizes = config.wholes("sample_size")
        if len(sizes) == 2:
            return sizes[0], sizes[1]
    elif given is not None:
        return config.whole("sample_size"), config.whole("sample_size")
    raise config.unsupported("sample_size", "the side of the images, or [height, width]")


def _untrained(config: ConfigFile) -> UNet:
    for key, only in ONLY.items():
        config.choice(key, only)
    config.choice("act_fn", "silu", "swish")
    config.choice("add_attention", True, False)
    widths, channels = config.wholes("block_out_channels"), config.whole("in_channels")
    config.choice("time_embedding_dim", None, 4 * widths[0])
    groups = config.whole("norm_num_groups")
    config.choice("attn_norm_num_groups", None, groups)
    head_dim, classes = config["attention_head_dim"], config["num_class_embeds"]
    options: dict[str, Any] = {
        "in_channels": channels,
        "out_channels": config.choice("out_channels", channels, 2 * channels),
        "base_width": gcd(*widths),
        "multipliers": [width // gcd(*widths) for width in widths],
        "blocks_per_level": config.whole("layers_per_block"),
        "attention_levels": _attention_levels(config, len(widths)),
        "head_dim": None if head_dim is None else config.whole("attention_head_dim"),
        "dropout": config.number("dropout"),
        "groups": groups,
        "eps": float(config.number("norm_eps")),
        "learned_variance": config["out_channels"] == 2 * channels,
        "num_classes": None if classes is None else config.whole("num_class_embeds"),
        "downsample_padding": config.choice("downsample_padding", 0, 1),
        "flip_sin_to_cos": config.choice("flip_sin_to_cos", True, False),
        "freq_shift": config.number("freq_shift"),
    }
    try:
        return UNet(**options)
    except ValueError as error:
        raise ValueError(f"{config.path} does not describe a network: {error}") from error


def _attention_levels(config: ConfigFile, num_levels: int) -> list[int]:
    types = {}
    for key, direction in (("down_block_types", "Down"), ("up_block_types", "Up")):
        allowed = [name.replace("Down", direction) for name in BLOCKS]
        given = config[key]
        if not isinstance(given, list | tuple) or len(given) != num_levels:
            raise config.unsupported(key, f"one block for each of the {num_levels} block_out_channels")
        types[key] = [str(name).removeprefix(PREFIX) for name in given]
        if not set(types[key]) <= set(allowed):
            raise config.unsupported(key, f"lists of {' and '.join(allowed)}")
    down = [BLOCKS[name] for name in types["down_block_types"]]
    up = [BLOCKS[name.replace("Up", "Down")] for name in types["up_block_types"]]
    if up[::-1] != down:
        raise config.unsupported("up_block_types", "up_block_types that mirror down_block_types")
    return [level for level, attention in enumerate(down) if attention]


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read: {error}; get a whole copy of it") from error
    return {name: value.to(torch.float32) for name, value in translate(state).items()}


def _check_fit(state: dict[str, Tensor], expected: dict[str, Tensor], weights: Path, config: Path) -> None:
    missing, unknown = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    wrong = [name for name in expected.keys() & state.keys() if expected[name].shape != state[name].shape]
    if not (missing or unknown or wrong):
        return
    if missing or unknown:
        what = ", ".join(
            f"{word} {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
            for word, names in (("it lacks", missing), ("it has besides", unknown))
            if names
        )
    else:
        name = min(wrong)
        what = f"{name} has shape {tuple(state[name].shape)} in place of {tuple(expected[name].shape)}"
    raise ValueError(f"{weights} does not fit {config} (in nelbo's names): {what}")
