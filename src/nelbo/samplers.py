"""Drawing images: from x_T, all noise, step by step to x_0."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo import randomness
from nelbo.paths import PATHS
from nelbo.randomness import Purpose
from nelbo.reverse import Label, Prediction, ReverseProcess, check_guidance


@dataclass(frozen=True)
class SampleState:
    """Where a sampler stands.

    Attributes:
        t: the step that the state belongs to, in the steps of the model's own schedule; 0 for the finished image.
        x_t: (B, C, H, W).
        x_0_hat: what the model takes x_0 to be, seen from x_t; at t = 0, x_0 itself.
    """

    t: int
    x_t: Tensor
    x_0_hat: Tensor


def ancestral_step(
    reverse: ReverseProcess, prediction: Prediction, x_t: Tensor, t: int, noise: Tensor
) -> Float[Tensor, "B *dims"]:
    """x_{t−1} = μ_θ(x_t, t) + σ_t z, and at t = 1 the mean alone.

    Equation: Ho2020 algorithm 2
    Lecture: denoise x_T to x_0, algorithm 2
    """
    transition = reverse.transition_of(prediction, x_t, t)
    return transition.mean if t == 1 else transition.reparameterize(noise)


def ddim_step(
    reverse: ReverseProcess, prediction: Prediction, x_t: Tensor, t: int, noise: Tensor
) -> Float[Tensor, "B *dims"]:
    """x_{t−1} = √ᾱ_{t−1} x̂_0 + √(1−ᾱ_{t−1}) ε̂: the deterministic sampler (η = 0).

    Equation: Song2021 (12)
    """
    if t == 1:
        return prediction.x_0
    return reverse.forward_process.q_marginal(prediction.x_0, t - 1).reparameterize(prediction.eps)


SAMPLERS: dict[str, Callable[..., Tensor]] = {"ancestral": ancestral_step, "ddim": ddim_step}


def sample(
    reverse: ReverseProcess,
    shape: Sequence[int],
    *,
    steps: int | None = None,
    path: str | Sequence[int] = "even",
    sampler: str = "ancestral",
    seed: int = 0,
    first: int = 0,
    label: Label = None,
    guidance: float = 1.0,
) -> Iterator[SampleState]:
    """Draw images: an iterator over every state on the way from x_T to x_0.

    Image i of the call draws as image ``first + i`` of the seed: the same picture in any batch.

    Args:
        reverse: p_θ.
        shape: (B, C, H, W).
        steps: K, how many of the T steps to take; None for all.
        path: which of the steps: "even", "quadratic", "shifted", or the steps themselves, increasing and as a rule
            up to T.
        sampler: "ancestral" or "ddim".
        seed: chooses the pictures.
        first: the index of the first image.
        label: int64 (B,), −1 for none.
        guidance: of classifier-free guidance; 1 for none.

    Returns:
        An iterator over K + 1 states, from t = T to t = 0; the last one's ``x_t`` is x_0.

    Raises:
        ValueError: at once, for an unknown path or sampler, steps outside 1..T, steps that are not as many as the
            path's, or guidance without a label.
    """
    take_step = _known(SAMPLERS, sampler, "sampler")
    timesteps = _timesteps(path, steps, reverse.schedule.num_timesteps)
    short = reverse.with_schedule(reverse.schedule.respaced(timesteps))
    check_guidance(guidance, label)
    parameter = next(reverse.parameters(), None)
    device = reverse.schedule.betas.device if parameter is None else parameter.device
    dtype = (
        torch.get_default_dtype()
        if parameter is None
        else torch.promote_types(parameter.dtype, torch.float32)
    )
    images = torch.arange(first, first + shape[0], device=device)

    def draw(purpose: Purpose, step: int = 0) -> Tensor:
        return randomness.normal(seed, purpose, images, shape[1:], step=step, dtype=dtype)

    def states() -> Iterator[SampleState]:
        x_t = draw(Purpose.PRIOR)
        for k in range(len(timesteps), 0, -1):
            # (Never across a yield: the caller's own gradients stay on.)
            with torch.no_grad():
                prediction = short.predict(x_t, k, label=label, guidance=guidance)
                x_before = take_step(short, prediction, x_t, k, draw(Purpose.REVERSE_NOISE, step=k))
            yield SampleState(t=timesteps[k - 1], x_t=x_t, x_0_hat=prediction.x_0)
            x_t = x_before
        yield SampleState(t=0, x_t=x_t, x_0_hat=x_t)

    return states()


def _timesteps(path: str | Sequence[int], steps: int | None, num_timesteps: int) -> Sequence[int]:
    if isinstance(path, str):
        timesteps: list[int] = _known(PATHS, path, "path")(
            num_timesteps, num_timesteps if steps is None else steps
        )
        return timesteps
    if steps not in (None, len(path)):
        raise ValueError(f"steps is {steps} and path has {len(path)} steps; leave steps out, or name a path")
    return path


def _known(table: dict[str, Callable[..., Any]], name: str, what: str) -> Callable[..., Any]:
    if name not in table:
        raise ValueError(f"unknown {what} {name!r}; choose one of {', '.join(sorted(table))}")
    return table[name]
