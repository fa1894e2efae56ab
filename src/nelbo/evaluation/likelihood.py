"""The bound on a set of images, estimated from a few time steps of each, with its error bar.

L_0 and L_T are computed for every image. Of the T−1 divergences between them, every image draws one step from
each of K strata (t uniform within a stratum, its weight the stratum's length), so the estimate is unbiased for any
K; the strata grow geometrically with t, because the divergences fall roughly as 1/t. Draws depend on the seed and
on the image's index alone.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nelbo import randomness
from nelbo.bound import bound_term, prior_term
from nelbo.data import levels_to_unit
from nelbo.randomness import Purpose
from nelbo.reverse import ReverseProcess
from nelbo.units import bits_per_dim


@dataclass(frozen=True)
class Stratum:
    """The steps first..last, drawn from together.

    Attributes:
        first: the smallest t.
        last: the largest t.
        bits_per_dim: the mean of one term L_{t−1} (L_0 for t = 1) within, in bits/dim per step.
        standard_error: of that mean.
    """

    first: int
    last: int
    bits_per_dim: float
    standard_error: float


@dataclass(frozen=True)
class Likelihood:
    """An estimate of the mean bound over a set of images, in bits per dimension.

    Attributes:
        bits_per_dim: L_T + Σ L_{t−1} + L_0, the mean over the images.
        standard_error: of that mean, for the population that the images stand for: it holds the spread between
            images and that of the drawn steps and noise.
        prior: L_T.
        transitions: Σ L_{t−1}, t = 2..T.
        reconstruction: L_0.
        num_images: how many images.
        network_evaluations: how many times the network saw an image.
        strata: the terms by step.
        per_image: the estimate of each image.
    """

    bits_per_dim: float
    standard_error: float
    prior: float
    transitions: float
    reconstruction: float
    num_images: int
    network_evaluations: int
    strata: tuple[Stratum, ...]
    per_image: tuple[float, ...]


def geometric_strata(num_timesteps: int, num_strata: int) -> list[tuple[int, int]]:
    """At most K ranges (first, last) that cover t = 2..T once, growing by a constant factor.

    Where only single steps are left to divide, the ranges come out more even; K ≥ T−1 gives every step its own.
    """
    if num_timesteps < 2:
        return []
    edges = np.geomspace(2, num_timesteps + 1, num_strata + 1)
    firsts = [2]
    for edge in edges[1:-1]:
        remaining = num_strata - len(firsts)
        low, high = firsts[-1] + 1, num_timesteps + 1 - remaining
        if low > num_timesteps:
            break
        firsts.append(min(max(round(float(edge)), low), max(low, high)))
    return list(zip(firsts, [first - 1 for first in firsts[1:]] + [num_timesteps]))


@torch.no_grad()
def estimate_likelihood(
    reverse: ReverseProcess,
    images: np.ndarray,
    *,
    evaluations_per_image: int = 25,
    batch_size: int = 64,
    seed: int = 0,
    on_batch: Callable[[int], None] | None = None,
) -> Likelihood:
    """Estimate the mean bound over ``images``.

    Args:
        reverse: p_θ, in eval mode.
        images: uint8 (N, C, H, W), N ≥ 1; never augmented.
        evaluations_per_image: network calls for each image, one of them for L_0; T for every step.
        batch_size: images per network call, at least 1; it does not change what is drawn.
        seed: decides the steps and the noise.
        on_batch: called with the number of network evaluations just done.

    Returns:
        The estimate. With one image the standard error is NaN.

    Raises:
        ValueError: if there is no image, no batch, or fewer than two evaluations for each.
    """
    if len(images) == 0:
        raise ValueError("there is no image to evaluate on; give --data, or hold some out when training")
    num_timesteps = reverse.schedule.num_timesteps
    if evaluations_per_image < min(2, num_timesteps):
        raise ValueError(
            f"evaluations per image is {evaluations_per_image}; give at least 2: L_0 and one more step"
        )
    if batch_size < 1:
        raise ValueError(f"batch size is {batch_size}; give at least 1")
    strata = [(1, 1), *geometric_strata(num_timesteps, min(evaluations_per_image, num_timesteps) - 1)]
    parameter = next(reverse.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    dtype = torch.promote_types(torch.float32 if parameter is None else parameter.dtype, torch.float32)
    num_dims = int(np.prod(images.shape[1:]))

    prior, terms = [], []
    for start in range(0, len(images), batch_size):
        levels = torch.from_numpy(np.asarray(images[start : start + batch_size]).copy()).to(device)
        x_0, numbers = levels_to_unit(levels, dtype), torch.arange(start, start + len(levels), device=device)
        columns = []
        for index, (first, last) in enumerate(strata):
            u = randomness.uniform(seed, Purpose.EVALUATION_TIMESTEP, numbers, step=index)
            t: int | Tensor = first + (u * (last - first + 1)).to(torch.int64) if last > first else first
            eps = randomness.normal(
                seed, Purpose.EVALUATION_NOISE, numbers, x_0.shape[1:], step=index, dtype=dtype
            )
            columns.append(bits_per_dim(bound_term(reverse, x_0, eps, t).double(), num_dims))
            if on_batch is not None:
                on_batch(len(levels))
        terms.append(torch.stack(columns, dim=1).cpu())
        prior.append(bits_per_dim(prior_term(reverse, x_0).double(), num_dims).cpu())
    return _summary(torch.cat(prior), torch.cat(terms), strata)


def _summary(prior: Tensor, terms: Tensor, strata: list[tuple[int, int]]) -> Likelihood:
    """Put (N,) priors and (N, K+1) drawn terms, in bits per dimension, together."""
    lengths = torch.tensor([last - first + 1 for first, last in strata], dtype=torch.float64)
    per_image = prior + terms @ lengths
    num_images = len(prior)
    errors = _standard_error(terms)
    return Likelihood(
        bits_per_dim=float(per_image.mean()),
        standard_error=float(_standard_error(per_image)),
        prior=float(prior.mean()),
        transitions=float((terms[:, 1:] @ lengths[1:]).mean()),
        reconstruction=float(terms[:, 0].mean()),
        num_images=num_images,
        network_evaluations=num_images * len(strata),
        strata=tuple(
            Stratum(first, last, float(mean), float(error))
            for (first, last), mean, error in zip(strata, terms.mean(dim=0), errors)
        ),
        per_image=tuple(per_image.tolist()),
    )


def _standard_error(values: Tensor) -> Tensor:
    """Of the mean over the first dimension; NaN for a single value, which says nothing of the spread."""
    if len(values) < 2:
        return torch.full_like(values[0], math.nan)
    return values.std(dim=0) / math.sqrt(len(values))
