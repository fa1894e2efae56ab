"""A reverse process from the configuration of a diffusers scheduler: its tables, digit for digit."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nelbo.interop.diffusers_config import ConfigFile
from nelbo.nn import UNet
from nelbo.parameterization import X0, AbstractParameterization, Epsilon, V
from nelbo.reverse import ReverseProcess
from nelbo.schedule import NoiseSchedule
from nelbo.variance import AbstractVariance, FixedLarge, FixedSmall, LearnedRange

DEFAULTS: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "variance_type": "fixed_small",
    "clip_sample": True,
    "prediction_type": "epsilon",
    "thresholding": False,
    "clip_sample_range": 1.0,
    "rescale_betas_zero_snr": False,
}
# what concerns fewer steps than the model has, thresholding, or diffusers' own past
IGNORED = (
    "timestep_spacing", "steps_offset", "set_alpha_to_one", "dynamic_thresholding_ratio", "sample_max_value",
    "tensor_format", "timestep_values", "skip_prk_steps",
)  # fmt: skip
CLASSES = ("DDPMScheduler", "DDIMScheduler")
PARAMETERIZATIONS: dict[str, Callable[[], AbstractParameterization]] = {
    "epsilon": Epsilon,
    "sample": X0,
    "v_prediction": V,
}
VARIANCES: dict[str, Callable[[], AbstractVariance]] = {
    "fixed_small": FixedSmall,
    "fixed_small_log": FixedSmall,
    "fixed_large": FixedLarge,
    "fixed_large_log": FixedLarge,
    "learned_range": LearnedRange,
}


def reverse_process(config: ConfigFile, network: UNet) -> ReverseProcess:
    """p_θ of a network and a scheduler.

    diffusers adds no noise in the last step and so gives σ_1 no value: it is nelbo's, β̃_2 for fixed_small.

    Args:
        config: a `DDPMScheduler`'s or a `DDIMScheduler`'s, with ``DEFAULTS``.
        network: what the scheduler belongs to.

    Raises:
        ValueError: if the configuration asks for what is not known here, or does not fit the network.
    """
    config.choice("thresholding", False)
    config.choice("rescale_betas_zero_snr", False)
    clip = bool(config.choice("clip_sample", True, False))
    if clip:
        config.choice("clip_sample_range", 1)
    variance = VARIANCES[variance_type(config)]()
    if variance.is_learned != network.learned_variance:
        raise ValueError(
            f"{config.path}: variance_type={variance_type(config)} does not fit a network of "
            f"{network.in_channels} channels in and {network.out_channels} out; nelbo reads learned_range of a "
            "DDPMScheduler with twice as many out as in, and the fixed ones with as many"
        )
    parameterization = PARAMETERIZATIONS[config.choice("prediction_type", *PARAMETERIZATIONS)]()
    betas = _betas(config)
    try:
        schedule = NoiseSchedule.from_betas(betas)
    except ValueError as error:
        raise ValueError(f"{config.path} does not describe a schedule: {error}") from error
    return ReverseProcess(network, schedule, parameterization, variance, clip)


def variance_type(config: ConfigFile) -> str:
    """The variance; a `DDIMScheduler` names none, and at η = 1 it draws with fixed_small."""
    if config["_class_name"] == "DDIMScheduler":
        return "fixed_small"
    return str(config.choice("variance_type", *VARIANCES))


def _betas(config: ConfigFile) -> Tensor:
    """β_1 … β_T, rounded to float32 as diffusers rounds them."""
    num_timesteps = config.whole("num_train_timesteps")
    if config["trained_betas"] is not None:
        betas = config.numbers("trained_betas")
        if len(betas) != num_timesteps:
            raise ValueError(
                f"{config.path}: trained_betas has {len(betas)} values, num_train_timesteps is {num_timesteps}; "
                "nelbo reads one for each step"
            )
        return torch.tensor(betas, dtype=torch.float32)
    kind = config.choice("beta_schedule", "linear", "scaled_linear", "squaredcos_cap_v2")
    if kind == "squaredcos_cap_v2":
        return _squared_cosine(num_timesteps)
    start, end = config.number("beta_start"), config.number("beta_end")
    if kind == "linear":
        return torch.linspace(start, end, num_timesteps, dtype=torch.float32)
    if min(start, end) < 0:
        key = "beta_start" if start < 0 else "beta_end"
        raise config.unsupported(key, "numbers between 0 and 1")
    return torch.linspace(start**0.5, end**0.5, num_timesteps, dtype=torch.float32) ** 2


def _squared_cosine(num_timesteps: int) -> Tensor:
    def alpha_bar(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    steps = range(num_timesteps)
    ratios = (alpha_bar((i + 1) / num_timesteps) / alpha_bar(i / num_timesteps) for i in steps)
    return torch.tensor([min(1 - ratio, 0.999) for ratio in ratios], dtype=torch.float32)
