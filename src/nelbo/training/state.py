"""What training carries from one step to the next, and how it goes into a checkpoint and comes back."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nelbo.nn import EMA
from nelbo.training.checkpoint import Checkpoint, CheckpointError
from nelbo.training.settings import TrainingConfig

_COUNTERS = ("step", "images", "seconds", "loss_sum", "loss_count")


@dataclass
class TrainingState:
    """The network, its average, the optimiser, and how far they are.

    Attributes:
        step: optimiser steps taken.
        images: examples seen.
        seconds: time spent training, resumes included.
        loss_sum: of the losses since the last line of the log.
        loss_count: how many they are.
    """

    network: nn.Module
    ema: EMA
    optimizer: torch.optim.Optimizer
    step: int = 0
    images: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    loss_count: int = 0
    _names: list[str] = field(default_factory=list)

    @classmethod
    def fresh(cls, network: nn.Module, settings: TrainingConfig) -> "TrainingState":
        """The state before the first step."""
        parameters = dict(network.named_parameters())
        optimizer = torch.optim.AdamW(
            parameters.values(),
            lr=settings.learning_rate,
            betas=(0.9, settings.beta2),
            weight_decay=settings.weight_decay,
            fused=True,
        )
        ema = EMA(network, half_life_images=settings.ema_half_life, warmup_ratio=settings.ema_warmup)
        return cls(network, ema, optimizer, _names=list(parameters))

    def parts(self) -> dict[str, dict[str, Tensor]]:
        """Every tensor that a resume needs, by part and name."""
        moments = {
            f"{self._names[index]}/{key}": value
            for index, values in self.optimizer.state_dict()["state"].items()
            for key, value in values.items()
        }
        return {"network": self.network.state_dict(), "ema": self.ema.state_dict(), "optimizer": moments}

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
            for name in _COUNTERS:
                setattr(self, name, type(getattr(self, name))(checkpoint.state[name]))
        except (RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError(f"{checkpoint.path} is not of this run's network: {error}") from error

    def _restore_optimizer(self, moments: Mapping[str, Tensor]) -> None:
        state: dict[int, dict[str, Tensor]] = {}
        parameters = dict(self.network.named_parameters())
        for name, value in moments.items():
            parameter, key = name.rsplit("/", 1)
            like = parameters[parameter]
            # The fused kernel walks weights and moments alike: they must lie in memory in the same order.
            moment = torch.empty_like(like).copy_(value) if value.shape == like.shape else value
            state.setdefault(self._names.index(parameter), {})[key] = moment
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
