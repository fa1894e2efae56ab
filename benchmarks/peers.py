"""A peer as it ships: its network, its process, its loss, its optimiser, its average, and what it has learned.

Their data pipelines and trackers stay out: a step begins with a batch on [−1, 1] in memory.
"""

import copy
import math
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nelbo import Epsilon, FixedLarge, NoiseSchedule, ReverseProcess, V


@dataclass(frozen=True)
class Trainee:
    """Something that learns.

    Attributes:
        network: what is trained, ``network(x_t, clock)``.
        step: one step of training on a batch of images on [−1, 1], when this share of the training is over.
        model: p_θ with the averaged weights, as it is now.
    """

    network: nn.Module
    step: Callable[[Tensor, float], object]
    model: Callable[[], ReverseProcess]


def diffusers(*, bfloat16: bool = False) -> Trainee:
    """UNet2DModel and DDPMScheduler as in diffusers' unconditional example, with widths for a CPU."""
    from diffusers import DDPMScheduler, UNet2DModel
    from diffusers.training_utils import EMAModel

    network = UNet2DModel(
        sample_size=64,
        layers_per_block=2,
        block_out_channels=(32, 64, 128, 256),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )
    scheduler = DDPMScheduler(num_train_timesteps=1000)
    average = EMAModel(network.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6)

    def step(x_0: Tensor, done: float) -> None:
        # Its example warms up for 500 steps, which would be all of a training of 20 minutes.
        optimizer.param_groups[0]["lr"] = (
            1e-4 * min(1.0, done / 0.05) * (0.5 + 0.5 * math.cos(math.pi * done))
        )
        noise = torch.randn_like(x_0)
        timesteps = torch.randint(0, 1000, (len(x_0),))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
            output = network(scheduler.add_noise(x_0, noise, timesteps), timesteps).sample
        loss = nn.functional.mse_loss(output.float(), noise.float())
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.step(network.parameters())
        loss.item()

    def model() -> ReverseProcess:
        averaged = copy.deepcopy(network).eval()
        average.copy_to(averaged.parameters())
        schedule = NoiseSchedule.from_betas(scheduler.betas.double())
        return ReverseProcess(_Sample(averaged), schedule, Epsilon(), FixedLarge())

    return Trainee(network, step, model)


def denoising_diffusion_pytorch(*, bfloat16: bool = False) -> Trainee:
    """Unet(32) and GaussianDiffusion, stepped as its Trainer does."""
    _stand_in_for_torchvision()
    from denoising_diffusion_pytorch.denoising_diffusion_pytorch import GaussianDiffusion, Unet
    from ema_pytorch import EMA

    network = Unet(dim=32, dim_mults=(1, 2, 4, 8), flash_attn=False)
    diffusion = GaussianDiffusion(network, image_size=64, timesteps=1000)
    average = EMA(diffusion, beta=0.995, update_every=10)
    optimizer = torch.optim.Adam(diffusion.parameters(), lr=1e-4, betas=(0.9, 0.99))

    def step(x_0: Tensor, _done: float) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
            loss = diffusion((x_0 + 1) / 2)
        loss.item()
        loss.backward()
        nn.utils.clip_grad_norm_(diffusion.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update()

    def model() -> ReverseProcess:
        averaged = copy.deepcopy(average.ema_model.model).eval()
        schedule = NoiseSchedule.from_betas(diffusion.betas.double())
        return ReverseProcess(averaged, schedule, V(), FixedLarge())

    return Trainee(network, step, model)


PEERS = {"diffusers": diffusers, "denoising-diffusion-pytorch": denoising_diffusion_pytorch}


class _Sample(nn.Module):
    """diffusers' networks wrap their output."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, clock: Tensor) -> Tensor:
        out: Tensor = self.network(x, clock).sample
        return out


def _stand_in_for_torchvision() -> None:
    """Its data pipeline and its FID import packages that the step never calls."""
    for name in ("torchvision", "torchvision.transforms", "torchvision.utils", "accelerate", "pytorch_fid"):
        if name not in sys.modules:
            sys.modules[name] = types.ModuleType(name)
    sys.modules["torchvision"].transforms = sys.modules["torchvision.transforms"]  # type: ignore[attr-defined]
    sys.modules["torchvision"].utils = sys.modules["torchvision.utils"]  # type: ignore[attr-defined]
    sys.modules["accelerate"].Accelerator = None  # type: ignore[attr-defined]
