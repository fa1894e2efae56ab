"""The bound on a set of images, in bits per dimension, from a few steps of each, with two error bars.

A pilot over a few images says where the spread is; then rounds, each a draw from every slot of the allocated plan
for every image. Rounds differ in nothing but their draws, so what an image's rounds differ by is the error of the
mean over these very images, and what the images differ by, draws included, is that of the mean over the population
that they stand for. The pilot decides only where to look: its own draws are not in the estimate.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.evaluation.plan import Plan, allocated, every_step, geometric, student_975
from nelbo.evaluation.sweep import OnBatch, Round, one_round, priors
from nelbo.reverse import ReverseProcess

PILOT_IMAGES, PILOT_SLOTS = 16, 24
_MAX_ROUNDS = 1000


@dataclass(frozen=True)
class Figure:
    """A mean over images, in bits/dim, and its errors.

    Attributes:
        value: the estimate.
        sampling_error: standard error of the mean over these very images: steps and noise are drawn.
        population_error: standard error of the mean over the population that they stand for: images too are drawn.
    """

    value: float
    sampling_error: float
    population_error: float


@dataclass(frozen=True)
class Step:
    """What a range of steps costs.

    Attributes:
        first: the smallest t.
        last: the largest t.
        bits_per_dim: the mean of one term L_{t−1} (L_0 for t = 1) within, bits/dim per step.
        sampling_error: of that mean, for these very images.
        standard_error: of that mean, for their population.
        draws: how many network evaluations were spent there.
    """

    first: int
    last: int
    bits_per_dim: float
    sampling_error: float
    standard_error: float
    draws: int


@dataclass(frozen=True)
class Likelihood:
    """An estimate of the mean bound over a set of images, bits/dim. NaN stands for an error that cannot be known.

    Attributes:
        total: L_T + Σ L_{t−1} + L_0.
        prior: L_T.
        transitions: Σ L_{t−1}, t = 2..T.
        reconstruction: L_0.
        half_width: of the 95 % interval of the mean over these very images.
        population_half_width: of the 95 % interval of the mean over their population.
        num_images: how many images.
        num_rounds: how often each image was gone through.
        network_evaluations: how many times the network saw an image, the pilot included.
        pilot_evaluations: the pilot's share of them.
        steps: the terms by step.
        per_image: float64 (N,), the estimate of each image.
        variant: its name in the rounds.
        rounds: the draws.
        priors: float64 (N,), L_T of each image.
    """

    total: Figure
    prior: Figure
    transitions: Figure
    reconstruction: Figure
    half_width: float
    population_half_width: float
    num_images: int
    num_rounds: int
    network_evaluations: int
    pilot_evaluations: int
    steps: tuple[Step, ...]
    per_image: Tensor
    variant: str
    rounds: tuple[Round, ...]
    priors: Tensor

    @property
    def bits_per_dim(self) -> float:
        """The total."""
        return self.total.value

    @property
    def standard_error(self) -> float:
        """Of the total, for the population."""
        return self.total.population_error


def pilot_plan(
    reverse: ReverseProcess,
    images: np.ndarray,
    num_slots: int,
    *,
    seed: int = 0,
    batch_size: int = 64,
    on_batch: OnBatch | None = None,
) -> tuple[Plan, int]:
    """Where to spend ``num_slots`` evaluations per image and round, found out with a few.

    Returns:
        The plan, and the network evaluations that it took.
    """
    num_timesteps = reverse.schedule.num_timesteps
    if num_slots >= num_timesteps:
        return every_step(num_timesteps), 0
    chosen = np.linspace(0, len(images) - 1, min(PILOT_IMAGES, len(images))).round().astype(int).tolist()
    first_look = geometric(num_timesteps, min(PILOT_SLOTS, num_timesteps))
    rounds = [
        one_round(
            {"": reverse}, images, first_look, number=number, seed=seed, is_pilot=True, chosen=chosen,
            batch_size=batch_size, on_batch=on_batch,
        )
        for number in range(2)
    ]  # fmt: skip
    t, terms = (torch.stack(parts) for parts in ([r.t for r in rounds], [r.terms[""] for r in rounds]))
    return allocated(t, terms, num_timesteps, num_slots), t.numel()


def estimate_likelihood(
    reverse: ReverseProcess,
    images: np.ndarray,
    *,
    evaluations_per_image: int = 24,
    precision: float | None = None,
    exact: bool = False,
    plan: Plan | None = None,
    seed: int = 0,
    batch_size: int = 64,
    on_batch: OnBatch | None = None,
) -> Likelihood:
    """Estimate the mean bound over ``images``.

    Args:
        reverse: p_θ, in eval mode.
        images: uint8 (N, C, H, W), N ≥ 1; never augmented.
        evaluations_per_image: network calls for each image, in two rounds (in one, without the error of the mean
            over these images, if less than 4); the pilot comes on top.
        precision: go on with more rounds until ``half_width`` is at most this many bits/dim.
        exact: every step of every image, and a second time for a few of them, for the error bar.
        plan: how to spend them, if there is one already; then no pilot is run.
        seed: decides the steps and the noise.
        batch_size: draws per network call; it does not change what is drawn.
        on_batch: called with the number of network evaluations just done.

    Returns:
        The estimate.

    Raises:
        ValueError: if there is no image, no batch, too few evaluations or no positive precision.
    """
    variants = {"": reverse}
    return estimate_variants(
        variants, images, evaluations_per_image=evaluations_per_image, precision=precision, exact=exact, plan=plan,
        seed=seed, batch_size=batch_size, on_batch=on_batch,
    )[""]  # fmt: skip


def estimate_variants(
    variants: Mapping[str, ReverseProcess],
    images: np.ndarray,
    *,
    evaluations_per_image: int = 24,
    precision: float | None = None,
    exact: bool = False,
    plan: Plan | None = None,
    seed: int = 0,
    batch_size: int = 64,
    on_batch: OnBatch | None = None,
    on_errors: Any = None,
) -> dict[str, Likelihood]:
    """As ``estimate_likelihood``, for models that share a network and differ in variance or decoder.

    The network is called once for all of them, at the first one's plan and to the first one's precision.
    """
    reverse = next(iter(variants.values()))
    num_timesteps = reverse.schedule.num_timesteps
    check_arguments(images, evaluations_per_image, precision, batch_size, num_timesteps)
    num_rounds = 2 if evaluations_per_image >= 4 else 1
    num_slots = min(num_timesteps, evaluations_per_image // num_rounds)
    pilot_evaluations = 0
    if exact:
        plan = every_step(num_timesteps)
    elif plan is None:
        plan, pilot_evaluations = pilot_plan(
            reverse, images, num_slots, seed=seed, batch_size=batch_size, on_batch=on_batch
        )
    prior = priors(reverse, images, batch_size)
    rounds: list[Round] = []

    def go_on(chosen: Sequence[int] | None = None) -> None:
        rounds.append(
            one_round(
                variants, images, plan, number=len(rounds), seed=seed, chosen=chosen, batch_size=batch_size,
                on_batch=on_batch, on_errors=on_errors,
            )
        )  # fmt: skip

    def summary(name: str) -> Likelihood:
        return _summary(name, rounds, prior, plan, pilot_evaluations)

    if exact:
        go_on()
        again = min(len(images), max(PILOT_IMAGES, len(images) // 10))
        go_on(np.linspace(0, len(images) - 1, again).round().astype(int).tolist())
    else:
        for _ in range(num_rounds):
            go_on()
    if precision is not None:
        first = next(iter(variants))
        while not summary(first).half_width <= precision:
            if len(rounds) == _MAX_ROUNDS:
                raise ValueError(
                    f"a half-width of {precision:g} bits/dim is out of reach: {_MAX_ROUNDS} rounds came to"
                    f" {summary(first).half_width:.3g}; ask for less"
                )
            go_on()
    return {name: summary(name) for name in variants}


def paired(first: Likelihood, second: Likelihood) -> tuple[Figure, float]:
    """The second's total less the first's on the same images, and the half-width of its 95 % interval.

    The errors are those of the differences, round by round and image by image: what both share cancels.
    """
    owners = torch.cat([r.images for r in first.rounds])
    pairs = zip(first.rounds, second.rounds, strict=True)
    values = torch.cat([b.totals(second.variant) - a.totals(first.variant) for a, b in pairs])
    figure, per_image, _ = _figure(values, owners, second.priors - first.priors)
    return figure, student_975(len(per_image) - 1) * figure.population_error


def check_arguments(
    images: np.ndarray, evaluations: int, precision: float | None, batch_size: int, num_timesteps: int
) -> None:
    """Refuse what no estimate can be made of; see ``estimate_likelihood``."""
    if len(images) == 0:
        raise ValueError("there is no image to evaluate on; give --data, or hold some out when training")
    if evaluations < min(2, num_timesteps):
        raise ValueError(f"evaluations per image is {evaluations}; give at least 2: L_0 and one more step")
    if batch_size < 1:
        raise ValueError(f"batch size is {batch_size}; give at least 1")
    if precision is not None and not 0 < precision < math.inf:
        raise ValueError(
            f"precision is {precision:g}; give the half-width to reach, in bits/dim, such as 0.01"
        )


def _summary(name: str, rounds: list[Round], prior: Tensor, plan: Plan, pilot_evaluations: int) -> Likelihood:
    num_images = len(prior)
    owners = torch.cat([r.images for r in rounds])
    scored = torch.cat([r.weights * r.terms[name] for r in rounds])
    is_first = torch.tensor([slot == (1, 1) for slot in plan.slots])
    l_0, transitions = scored[:, is_first].sum(dim=1), scored[:, ~is_first].sum(dim=1)
    nothing = torch.zeros(num_images, dtype=torch.float64)
    total, per_image, degrees = _figure(l_0 + transitions, owners, prior)
    steps = []
    for first, last in dict.fromkeys(plan.slots):
        columns = torch.tensor([slot == (first, last) for slot in plan.slots])
        figure, *_ = _figure(scored[:, columns].sum(dim=1) / (last - first + 1), owners, nothing)
        draws = len(owners) * int(columns.sum())
        steps.append(Step(first, last, figure.value, figure.sampling_error, figure.population_error, draws))
    return Likelihood(
        total=total,
        prior=Figure(float(prior.mean()), 0.0, _standard_error(prior)),
        transitions=_figure(transitions, owners, nothing)[0],
        reconstruction=_figure(l_0, owners, nothing)[0],
        half_width=student_975(degrees) * total.sampling_error,
        population_half_width=student_975(num_images - 1) * total.population_error,
        num_images=num_images,
        num_rounds=len(rounds),
        network_evaluations=pilot_evaluations + scored.numel(),
        pilot_evaluations=pilot_evaluations,
        steps=tuple(steps),
        per_image=per_image,
        variant=name,
        rounds=tuple(rounds),
        priors=prior,
    )


def _figure(
    values: Float[Tensor, "M"], owners: Tensor, exact_part: Float[Tensor, "N"]
) -> tuple[Figure, Float[Tensor, "N"], int]:
    """The mean over images, each the mean of its rounds; (value, per image, degrees of freedom within images)."""
    num_images = len(exact_part)
    counts = torch.zeros(num_images, dtype=torch.float64).index_add_(0, owners, torch.ones_like(values))
    means = torch.zeros_like(counts).index_add_(0, owners, values) / counts
    per_image = exact_part + means
    degrees = len(values) - num_images
    within = float((values - means[owners]).square().sum()) / degrees if degrees else math.nan
    sampling_error = math.sqrt(within * float((1 / counts).sum())) / num_images
    return Figure(float(per_image.mean()), sampling_error, _standard_error(per_image)), per_image, degrees


def _standard_error(values: Float[Tensor, "N"]) -> float:
    """Of the mean; NaN for a single value, which says nothing of the spread."""
    return float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
