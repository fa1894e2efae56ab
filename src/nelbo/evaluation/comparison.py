"""Which of two models is better on the same images, from the same steps and the same noise."""

import math
from dataclasses import dataclass, replace

import numpy as np

from nelbo.evaluation.likelihood import Likelihood, check_arguments, estimate_likelihood, paired, pilot_plan
from nelbo.evaluation.plan import Plan
from nelbo.evaluation.sweep import OnBatch
from nelbo.reverse import ReverseProcess


@dataclass(frozen=True)
class Comparison:
    """Two models on the same images; all in bits/dim.

    Attributes:
        first: the estimate of the first.
        second: the estimate of the second.
        difference: second less first: positive where the first is better.
        sampling_error: standard error of the difference over these very images.
        standard_error: of the difference over the population that they stand for.
        half_width: of the 95 % interval of the difference over the population.
        unpaired_error: what ``standard_error`` would be, had the two not met the same images and noise.
        shared_draws: whether steps and noise were the same, too; not so where the models differ in T.
    """

    first: Likelihood
    second: Likelihood
    difference: float
    sampling_error: float
    standard_error: float
    half_width: float
    unpaired_error: float
    shared_draws: bool

    def sentence(self, first_name: str, second_name: str) -> str:
        """The verdict in words."""
        better, worse = (first_name, second_name) if self.difference >= 0 else (second_name, first_name)
        by = f"{abs(self.difference):.3f} ± {self.standard_error:.3f} bits/dim"
        if math.isnan(self.standard_error):
            return f"{better} is better on this one image; of others it says nothing."
        if abs(self.difference) <= self.half_width:
            return f"{better} is ahead by {by}: no difference that these images could show."
        return f"{better} is better than {worse} by {by}."


def compare(
    first: ReverseProcess,
    second: ReverseProcess,
    images: np.ndarray,
    *,
    evaluations_per_image: int = 24,
    seed: int = 0,
    batch_size: int = 64,
    on_batch: OnBatch | None = None,
) -> Comparison:
    """Estimate both bounds and their paired difference.

    Where both have the same T, both take the plan of the first, and so the same steps and noise; the images and the
    noise of each draw are the same in any case.

    Args:
        first: p_θ of the one model, in eval mode.
        second: p_θ of the other, for images of the same shape.
        images: uint8 (N, C, H, W), N ≥ 1.
        evaluations_per_image: network calls of each model for each image.
        seed: decides the steps and the noise.
        batch_size: draws per network call.
        on_batch: called with the number of network evaluations just done.

    Raises:
        ValueError: if there is no image, no batch or too few evaluations.
    """
    shared = first.schedule.num_timesteps == second.schedule.num_timesteps
    plan: Plan | None = None
    pilot_evaluations = 0
    for reverse in (first, second):
        check_arguments(images, evaluations_per_image, None, batch_size, reverse.schedule.num_timesteps)
    if shared:
        num_slots = max(1, evaluations_per_image // (2 if evaluations_per_image >= 4 else 1))
        plan, pilot_evaluations = pilot_plan(
            first, images, num_slots, seed=seed, batch_size=batch_size, on_batch=on_batch
        )
    one, other = (
        estimate_likelihood(
            reverse, images, evaluations_per_image=evaluations_per_image, plan=plan, seed=seed,
            batch_size=batch_size, on_batch=on_batch,
        )
        for reverse in (first, second)
    )  # fmt: skip
    one = replace(
        one,
        network_evaluations=one.network_evaluations + pilot_evaluations,
        pilot_evaluations=one.pilot_evaluations + pilot_evaluations,
    )
    figure, half_width = paired(one, other)
    return Comparison(
        first=one,
        second=other,
        difference=figure.value,
        sampling_error=figure.sampling_error,
        standard_error=figure.population_error,
        half_width=half_width,
        unpaired_error=math.hypot(one.standard_error, other.standard_error),
        shared_draws=shared,
    )
