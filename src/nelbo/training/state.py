"""What training carries from one step to the next, and how it goes into a checkpoint and comes back."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nelbo.nn import EMA
from nelbo.training.checkpoint import Checkpoint, CheckpointError
from nelbo.training.muon import Muon
from nelbo.training.settings import Limits, TrainingConfig
from nelbo.training.timesteps import LossHistory

_COUNTERS = ("step", "images", "seconds", "loss_sum", "loss_count")


@dataclass
class TrainingState:
    """The network, its average, the optimisers, how far they are, and the losses at each t if they are of use.

    Attributes:
        step: optimiser steps taken.
        images: examples seen.
        seconds: time spent training, resumes included.
        loss_sum: of the estimates of the objective, one a step, since the last line of the log.
        loss_count: how many they are.
        history: the last losses of each t, where t is drawn by them.
    """

    network: nn.Module
    ema: EMA
    optimizers: list[torch.optim.Optimizer]
    step: int = 0
    images: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    loss_count: int = 0
    history: LossHistory | None = None

    @classmethod
    def fresh(
        cls, network: nn.Module, settings: TrainingConfig, history: LossHistory | None = None
    ) -> "TrainingState":
        """The state before the first step."""
        convolutions, others = _parted(network, settings.optimizer)
        optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(
                others,
                lr=settings.learning_rate,
                betas=(0.9, settings.beta2),
                weight_decay=settings.weight_decay,
                fused=True,
            )
        ]
        if convolutions:
            optimizers.append(Muon(convolutions, lr=settings.muon_learning_rate))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["peak_lr"] = group["lr"]
        ema = EMA(network, half_life_images=settings.ema_half_life, warmup_ratio=settings.ema_warmup)
        return cls(network, ema, optimizers, history=history)

    def progress(self, limits: Limits) -> float:
        """How much of the run is done, 0..1: by whichever limit is nearest."""
        shares = [0.0]
        if limits.max_steps is not None:
            shares.append(self.step / limits.max_steps)
        if limits.max_images is not None:
            shares.append(self.images / limits.max_images)
        if limits.max_minutes is not None:
            shares.append(self.seconds / (60 * limits.max_minutes))
        return min(1.0, max(shares))

    def parts(self) -> dict[str, dict[str, Tensor]]:
        """Every tensor that a resume needs, by part and name."""
        moments = {
            f"{name}/{key}": value
            for name, parameter in self.network.named_parameters()
            for optimizer in self.optimizers
            for key, value in optimizer.state.get(parameter, {}).items()
        }
        parts = {"network": self.network.state_dict(), "ema": self.ema.state_dict(), "optimizer": moments}
        return parts if self.history is None else {**parts, "timesteps": self.history.tensors()}

    def counters(self) -> dict[str, Any]:
        """Every number that a resume needs."""
        return {name: getattr(self, name) for name in _COUNTERS}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to where a checkpoint was written.

        Raises:
            CheckpointError: if it belongs to another network.
        """
        try:
            self.network.load_state_dict(checkpoint.tensors("network"))
            self.ema.load_state_dict(checkpoint.tensors("ema"))
            self._restore_optimizer(checkpoint.tensors("optimizer"))
            if self.history is not None:
                self.history.load(checkpoint.tensors("timesteps"))
            for name in _COUNTERS:
                setattr(self, name, type(getattr(self, name))(checkpoint.state[name]))
        except (RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError(f"{checkpoint.path} is not of this run's network: {error}") from error

    def _restore_optimizer(self, moments: Mapping[str, Tensor]) -> None:
        parameters = dict(self.network.named_parameters())
        for name, value in moments.items():
            parameter_name, key = name.rsplit("/", 1)
            parameter = parameters[parameter_name]
            owner = next(o for o in self.optimizers if any(parameter is p for p in _parameters(o)))
            # The fused kernel walks weights and moments alike: they must lie in memory in the same order.
            moment = torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value
            owner.state[parameter][key] = moment


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _parted(network: nn.Module, optimizer: str) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters that Muon takes, and the others."""
    parameters = list(network.parameters())
    if optimizer == "adamw":
        return [], parameters
    return [p for p in parameters if p.ndim == 4], [p for p in parameters if p.ndim != 4]
