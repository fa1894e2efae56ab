"""A DDPM in diffusers' folder format, read without diffusers: JSON and safetensors, never a pickle.

FOLDER/
    model_index.json                             what the pipeline is made of
    unet/config.json                             or config.json, as in the published google/ddpm-*
    unet/diffusion_pytorch_model.safetensors     beside it
    scheduler/scheduler_config.json              or scheduler_config.json
"""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from nelbo.interop import diffusers_scheduler, diffusers_unet
from nelbo.interop.diffusers_config import ConfigFile, read_json
from nelbo.reverse import ReverseProcess

INDEX = "model_index.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
PICKLES = ("diffusion_pytorch_model.bin", "diffusion_pytorch_model.ckpt")


@dataclass(frozen=True)
class ForeignModel:
    """A model that nelbo did not train.

    Attributes:
        reverse: p_θ, float32, in eval mode, on the CPU.
        image_shape: (C, H, W).
        num_classes: the classes of a class-conditional network, or None. Such a network from diffusers has not
            learned 'no class': only with a ``label=`` for every image does its bound mean anything.
        summary: what it is, in one line.
    """

    reverse: ReverseProcess
    image_shape: tuple[int, int, int]
    num_classes: int | None
    summary: str


def is_diffusers(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder is in diffusers' format: a pipeline's, or that of a `UNet2DModel` alone."""
    folder = Path(folder)
    if (folder / INDEX).is_file() or (folder / "unet" / "config.json").is_file():
        return True
    try:
        return read_json(folder / "config.json").get("_class_name") == "UNet2DModel"
    except ValueError:
        return False


def read_diffusers(folder: str | os.PathLike[str]) -> ForeignModel:
    """Read a DDPM in diffusers' format.

    Args:
        folder: what ``DDPMPipeline.save_pretrained`` wrote, or the same files without the subfolders.

    Raises:
        ValueError: if something is missing or damaged, or is not supported; the message names it.
    """
    folder = Path(folder)
    pipeline = _pipeline(folder)
    # As in diffusers, what has no folder of its own lies in the pipeline's.
    unet = folder / "unet" if (folder / "unet").is_dir() else folder
    values = _component(unet / "config.json", ("UNet2DModel",))
    unet_config = ConfigFile(unet / "config.json", values, diffusers_unet.DEFAULTS, diffusers_unet.IGNORED)
    scheduler_config = _scheduler_config(folder)
    height, width = diffusers_unet.image_size(unet_config)
    network = diffusers_unet.read_unet(unet_config, _weights(unet, folder))
    try:
        network.check_size(height, width)
    except ValueError as error:
        raise ValueError(f"{unet_config.path}: sample_size: {error}") from error
    reverse = diffusers_scheduler.reverse_process(scheduler_config, network).eval()
    reverse.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    count = sum(parameter.numel() for parameter in network.parameters())
    classes = "" if network.num_classes is None else f" of {network.num_classes} classes"
    betas = "trained" if scheduler_config["trained_betas"] is not None else scheduler_config["beta_schedule"]
    return ForeignModel(
        reverse=reverse,
        image_shape=(network.in_channels, height, width),
        num_classes=network.num_classes,
        summary=f"{pipeline} of diffusers: UNet2DModel, {count:,} parameters, images {network.in_channels}×"
        f"{height}×{width}{classes}; {scheduler_config['_class_name']}, T={reverse.schedule.num_timesteps}, "
        f"{betas} betas, {scheduler_config['prediction_type']}, "
        f"{diffusers_scheduler.variance_type(scheduler_config)}, {'' if reverse.clip else 'not '}clipped",
    )


def _pipeline(folder: Path) -> str:
    """The name of the pipeline, if it is one of a network and a scheduler alone."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; give one that DDPMPipeline.save_pretrained wrote")
    if not (folder / INDEX).is_file():
        return "model"
    index = read_json(folder / INDEX)
    name = str(index.get("_class_name", "pipeline"))
    parts = [key for key, value in index.items() if isinstance(value, list) and any(value)]
    others = sorted(key for key in parts if not key.startswith("_") and key not in ("unet", "scheduler"))
    if others:
        raise ValueError(
            f"{folder / INDEX}: {name} has {', '.join(others)}; nelbo reads pipelines of a unet and a scheduler "
            "alone, such as DDPMPipeline"
        )
    return name


def _component(path: Path, classes: tuple[str, ...]) -> dict[str, object]:
    if not path.is_file():
        raise ValueError(f"{path} is missing; give a folder that DDPMPipeline.save_pretrained wrote")
    values = read_json(path)
    if values.get("_class_name") not in classes:
        raise ValueError(
            f"{path}: _class_name is {values.get('_class_name')}; nelbo reads {' or '.join(classes)}"
        )
    return values


def _scheduler_config(folder: Path) -> ConfigFile:
    path, beside = folder / "scheduler" / "scheduler_config.json", folder / "scheduler_config.json"
    if not path.is_file():
        if not beside.is_file():
            raise ValueError(
                f"{folder} has no scheduler: one is expected in {path} or {beside}, as diffusers' "
                f"DDPMScheduler(...).save_pretrained({str(path.parent)!r}) writes it"
            )
        path = beside
    values = _component(path, diffusers_scheduler.CLASSES)
    return ConfigFile(path, values, diffusers_scheduler.DEFAULTS, diffusers_scheduler.IGNORED)


def _weights(unet: Path, folder: Path) -> Path:
    if (unet / WEIGHTS).is_file():
        return unet / WEIGHTS
    pickles = [name for name in PICKLES if (unet / name).is_file()]
    if pickles:
        name, place = ("DDPMPipeline", folder) if (folder / INDEX).is_file() else ("UNet2DModel", unet)
        raise ValueError(
            f"{unet} has {pickles[0]}, a pickle, which nelbo does not open; convert it to safetensors: "
            f"from diffusers import {name}; F = {str(place)!r}; "
            f"{name}.from_pretrained(F).save_pretrained(F, safe_serialization=True)"
        )
    if (unet / f"{WEIGHTS}.index.json").is_file():
        raise ValueError(f"{unet} has its weights in several files; nelbo reads one, {WEIGHTS}")
    raise ValueError(f"{unet / WEIGHTS} is missing: the folder has a configuration and no weights")
