"""Drawing images: from x_T, all noise, step by step to x_0."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nelbo import randomness
from nelbo.dpm_solver import dpm_solver_step
from nelbo.paths import PATHS
from nelbo.randomness import Purpose
from nelbo.reverse import Label, Prediction, ReverseProcess, check_guidance
from nelbo.schedule import NoiseSchedule
from nelbo.tables import coefficient


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


TakeStep = Callable[..., Tensor]
"""From x_t to x_{t−1}, of (reverse, prediction, x_t, t, noise, before): p_θ on the schedule of the path, what it
says of x_t, the step 1..K, z (standard normal; not every sampler uses it), and x̂_0 seen from x_{t+1}, or None."""


def ancestral_step(
    reverse: ReverseProcess,
    prediction: Prediction,
    x_t: Tensor,
    t: int,
    noise: Tensor,
    before: Tensor | None = None,
) -> Float[Tensor, "B *dims"]:
    """x_{t−1} = μ_θ(x_t, t) + σ_t z, and at t = 1 the mean alone.

    Equation: Ho2020 algorithm 2
    Lecture: denoise x_T to x_0, algorithm 2
    """
    transition = reverse.transition_of(prediction, x_t, t)
    return transition.mean if t == 1 else transition.reparameterize(noise)


def ddim_step(
    reverse: ReverseProcess,
    prediction: Prediction,
    x_t: Tensor,
    t: int,
    noise: Tensor,
    before: Tensor | None = None,
    *,
    eta: float = 0.0,
) -> Float[Tensor, "B *dims"]:
    """x_{t−1} = √ᾱ_{t−1} x̂_0 + √(1−ᾱ_{t−1}−η²β̃_t) ε̂ + η √β̃_t z: deterministic at η = 0, ancestral with β̃ at 1.

    Equation: Song2021 (12) and (16)
    """
    if t == 1:
        return prediction.x_0
    schedule = reverse.schedule
    added = eta**2 * schedule.posterior_variances
    kept = schedule.one_minus_alphas_bar[t - 1] - added[t]
    mean = reverse.forward_process.q_marginal(prediction.x_0, t - 1).mean
    return mean + coefficient(kept.sqrt(), x_t) * prediction.eps + coefficient(added[t].sqrt(), x_t) * noise


SAMPLERS: dict[str, TakeStep] = {
    "ancestral": ancestral_step,
    "ddim": ddim_step,
    "dpm++": dpm_solver_step,
    "sde-dpm++": partial(dpm_solver_step, stochastic=True),
}


@dataclass(frozen=True)
class Chain:
    """A way down a path, from wherever it begins. ``sample`` begins it at x_T, ``nelbo.edits`` elsewhere.

    Attributes:
        reverse: p_θ, on the schedule of the path.
        timesteps: the path, in the steps of the model's own schedule: t_1 < … < t_K.
        take_step: the sampler.
        seed: chooses the pictures.
        images: int64 (B,), which images of the seed they are.
        shape: (C, H, W).
        label: int64 (B,), −1 for none.
        guidance: of classifier-free guidance.
        dtype: of the pictures.
    """

    reverse: ReverseProcess
    timesteps: Sequence[int]
    take_step: TakeStep
    seed: int
    images: Int[Tensor, "B"]
    shape: Sequence[int]
    label: Label
    guidance: float
    dtype: torch.dtype

    def noise(self, purpose: Purpose, step: int = 0) -> Tensor:
        """Standard normal draws (B, C, H, W), which depend on the seed and the images' numbers alone."""
        return randomness.normal(self.seed, purpose, self.images, self.shape, step=step, dtype=self.dtype)

    def predict(self, x_t: Tensor, k: int) -> Prediction:
        """What the model says of x_t at step k of the path."""
        return self.reverse.predict(x_t, k, label=self.label, guidance=self.guidance)

    def states(
        self,
        x_t: Tensor,
        k: int,
        *,
        keep: Callable[[Tensor, int], Tensor] | None = None,
        resamplings: int = 1,
    ) -> Iterator[SampleState]:
        """Every state from x_t, at step k of the path, to x_0.

        Args:
            x_t: (B, C, H, W).
            k: 1..K.
            keep: puts what is known of x_{t−1} in its place, given x_{t−1} and its step of the path, 0 … k − 1.
            resamplings: how often each step is taken; between two times, noise leads back up.
        """
        before: Tensor | None = None
        x_before = x_t
        for level in range(k, 0, -1):
            for turn in range(resamplings if level > 1 else 1):
                # (Never across a yield: the caller's own gradients stay on.)
                with torch.no_grad():
                    if turn:
                        back = self.noise(Purpose.RESAMPLING, step=level + turn * len(self.timesteps))
                        x_t = self.reverse.forward_process.q_transition(x_before, level).reparameterize(back)
                        before = None
                    prediction = self.predict(x_t, level)
                    noise = self.noise(Purpose.REVERSE_NOISE, step=level + turn * len(self.timesteps))
                    x_before = self.take_step(self.reverse, prediction, x_t, level, noise, before)
                    if keep is not None:
                        x_before = keep(x_before, level - 1)
            yield SampleState(t=self.timesteps[level - 1], x_t=x_t, x_0_hat=prediction.x_0)
            x_t, before = x_before, prediction.x_0
        yield SampleState(t=0, x_t=x_t, x_0_hat=x_t)


def chain(
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
    eta: float = 0.0,
    threshold: float | None = None,
) -> Chain:
    """A chain, for the same arguments as ``sample``.

    Raises:
        ValueError: see ``sample``.
    """
    take_step = _known(SAMPLERS, sampler, "sampler")
    if eta:
        if sampler != "ddim" or not 0 <= eta <= 1:
            raise ValueError(f"eta is {eta:g}, with the sampler {sampler!r}; give ddim, and 0 to 1")
        take_step = partial(ddim_step, eta=eta)
    timesteps = timesteps_of(path, steps, reverse.schedule)
    short = reverse.with_schedule(reverse.schedule.respaced(timesteps))
    if threshold is not None:
        short = short.with_clip(threshold)
    check_guidance(guidance, label)
    parameter = next(reverse.parameters(), None)
    device = reverse.schedule.betas.device if parameter is None else parameter.device
    dtype = torch.get_default_dtype() if parameter is None else parameter.dtype
    images = torch.arange(first, first + shape[0], device=device)
    precise = torch.promote_types(dtype, torch.float32)
    return Chain(short, timesteps, take_step, seed, images, shape[1:], label, guidance, precise)


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
    eta: float = 0.0,
    threshold: float | None = None,
) -> Iterator[SampleState]:
    """Draw images: an iterator over every state on the way from x_T to x_0.

    Image i of the call draws as image ``first + i`` of the seed: the same picture in any batch.

    Args:
        reverse: p_θ.
        shape: (B, C, H, W).
        steps: K, how many of the T steps to take; None for all.
        path: which of the steps: "even", "quadratic", "shifted", "log-snr", or the steps themselves, increasing and
            as a rule up to T.
        sampler: "ancestral", "ddim", "dpm++" (DPM-Solver++(2M)), or "sde-dpm++", its stochastic form.
        seed: chooses the pictures.
        first: the index of the first image.
        label: int64 (B,), −1 for none.
        guidance: of classifier-free guidance; 1 for none.
        eta: of "ddim", 0 to 1: how much of β̃ is drawn anew in each step.
        threshold: a share of the pixels, such as 0.995: x̂_0 is scaled so that these lie within [−1, 1] and the
            others are clipped, where strong guidance would clip many; None clips as the model does.

    Returns:
        An iterator over K + 1 states, from t = T to t = 0; the last one's ``x_t`` is x_0.

    Raises:
        ValueError: at once, for an unknown path or sampler, steps outside 1..T, steps that are not as many as the
            path's, guidance without a label, or an eta or a threshold that cannot be.
    """
    way = chain(
        reverse, shape, steps=steps, path=path, sampler=sampler, seed=seed, first=first, label=label,
        guidance=guidance, eta=eta, threshold=threshold,
    )  # fmt: skip
    return way.states(way.noise(Purpose.PRIOR), len(way.timesteps))


def timesteps_of(path: str | Sequence[int], steps: int | None, schedule: NoiseSchedule) -> Sequence[int]:
    """The steps that a path means.

    Raises:
        ValueError: if the name is unknown, or ``steps`` is not how many there are.
    """
    if isinstance(path, str):
        num_steps = schedule.num_timesteps if steps is None else steps
        timesteps: list[int] = _known(PATHS, path, "path")(schedule, num_steps)
        return timesteps
    if steps not in (None, len(path)):
        raise ValueError(f"steps is {steps} and path has {len(path)} steps; leave steps out, or name a path")
    return path


def _known(table: dict[str, Any], name: str, what: str) -> Any:
    if name not in table:
        raise ValueError(f"unknown {what} {name!r}; choose one of {', '.join(sorted(table))}")
    return table[name]
