"""One step of training: noise, network, loss, gradient, optimisers, average.

Nothing here reads a number off the device, so that on a GPU the host runs ahead.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nelbo import randomness
from nelbo.objectives import OBJECTIVES, stratified_uniforms
from nelbo.randomness import Purpose
from nelbo.reverse import ReverseProcess
from nelbo.training.batches import Batch
from nelbo.training.precision import autocast
from nelbo.training.settings import TrainingConfig
from nelbo.training.state import TrainingState
from nelbo.training.timesteps import draw_timesteps


@dataclass(frozen=True)
class Figures:
    """What a step found, on the device.

    Attributes:
        step: the number of the step, from 1.
        first: the number of the batch's first example.
        t: int64 (B,).
        losses: (B,), before they are weighted.
        loss: (), the estimate of the objective.
        norm: (), of the gradient, before it is clipped.
    """

    step: int
    first: int
    t: Int[Tensor, "B"]
    losses: Float[Tensor, "B"]
    loss: Float[Tensor, ""]
    norm: Float[Tensor, ""]

    def are_finite(self) -> bool:
        """Whether the step may be taken. The host waits for the device here."""
        return math.isfinite(float(self.norm) + float(self.loss))


class Step:
    """Steps of training, of one network with one recipe.

    Args:
        reverse: p_θ; its network is changed in place.
        settings: how to train.
        state: where training is; moved on by every step.
        compiled: let torch.compile make one kernel of many (with CUDA graphs on a GPU).
    """

    def __init__(
        self,
        reverse: ReverseProcess,
        settings: TrainingConfig,
        state: TrainingState,
        *,
        compiled: bool = False,
    ) -> None:
        self._reverse = reverse
        self._settings = settings
        self._state = state
        self._parameters = list(state.network.parameters())
        self._losses: Callable[..., Tensor] = _compiled(self._losses_of) if compiled else self._losses_of

    def gradient(self, batch: Batch) -> Figures:
        """Set the network's gradients to those of the weighted loss, clipped, over the whole batch."""
        settings, size = self._settings, len(batch.numbers)
        offset = randomness.uniform(settings.seed, Purpose.TIMESTEP, batch.numbers[:1])[0]
        u = stratified_uniforms(offset, torch.arange(size, device=offset.device), size)
        num_timesteps = self._reverse.schedule.num_timesteps
        t, weights = draw_timesteps(u, num_timesteps, self._state.history, settings.timestep_shift)
        # Dropout is the one draw that torch makes itself.
        torch.manual_seed(self._dropout_seed())
        self._state.network.zero_grad(set_to_none=True)
        losses = []
        for part in _parts(size, settings.micro_batch):
            label = None if batch.label is None else batch.label[part]
            with autocast(offset.device, settings.precision):
                of_part = self._losses(batch.x_0[part], batch.numbers[part], t[part], label)
            (weights[part].to(of_part) * of_part / size).sum().backward()  # type: ignore[no-untyped-call]
            losses.append(of_part.detach().clone())  # (the next replay of a CUDA graph writes over it)
        all_losses = torch.cat(losses)
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, settings.clip_norm)
        loss = (weights.to(all_losses) * all_losses).mean()
        return Figures(self._state.step + 1, self._state.images, t, all_losses, loss, norm.detach())

    def update(self, figures: Figures, rate_factor: float) -> None:
        """Move the weights along the gradients, at this share of the peak learning rates, and all that follows."""
        state, size = self._state, len(figures.t)
        for optimizer in state.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * rate_factor
            optimizer.step()
        if state.history is not None:
            state.history.add(figures.t, figures.losses)
        state.step += 1
        state.images += size
        state.ema.update(size, state.images)

    def _losses_of(self, x_0: Tensor, numbers: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        eps = randomness.normal(self._settings.seed, Purpose.FORWARD_NOISE, numbers, x_0.shape[1:])
        return OBJECTIVES[self._settings.objective](self._reverse, x_0, eps, t, label=label)

    def _dropout_seed(self) -> int:
        number = randomness.uniform(self._settings.seed, Purpose.DROPOUT, torch.tensor([self._state.step]))
        return int(number * 2**53)


def compilation_pays(device: torch.device, minutes: float | int | None) -> bool:
    """Whether a run of so many minutes (None: of unknown length) on this device earns the compiler's minutes back.

    On a CPU the convolutions are the library's either way, and it never did (benchmarks/RESULTS.md).
    """
    return device.type == "cuda" and (minutes is None or minutes >= 10)


def _parts(size: int, micro_batch: int | None) -> list[slice]:
    most = micro_batch or size
    return [slice(first, min(first + most, size)) for first in range(0, size, most)]


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    mode = "reduce-overhead" if torch.cuda.is_available() else "default"
    return torch.compile(function, mode=mode)
