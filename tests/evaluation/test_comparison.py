"""Two models on the same images: the paired difference, its error, and the verdict."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
from torch import nn

from exact import GaussianData
from nelbo import FixedSmall, NoiseSchedule, ReverseProcess
from nelbo.evaluation.comparison import compare
from nelbo.evaluation.likelihood import estimate_likelihood, estimate_variants, paired

SCHEDULE = NoiseSchedule.linear(20, 1e-3, 0.6)
GAUSSIAN = GaussianData(NoiseSchedule.linear(50))


def pictures(num):
    return np.random.default_rng(0).integers(0, 256, (num, 3, 4, 4), dtype=np.uint8)


class Watching(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network, self.seen = network, []

    def forward(self, x_t, clock):
        self.seen.append(x_t)
        return self.network(x_t, clock)


@pytest.fixture
def reverse(tiny_network):
    return ReverseProcess(Watching(tiny_network()), SCHEDULE).eval()


def perturbed(reverse, by):
    other = copy.deepcopy(reverse)
    with torch.no_grad():
        for value in other.parameters():
            value += by * torch.randn_like(value)
    return other


def test_a_model_is_exactly_as_good_as_itself(reverse):
    got = compare(reverse, copy.deepcopy(reverse), pictures(8))
    assert (got.difference, got.sampling_error, got.standard_error, got.half_width) == (0, 0, 0, 0)
    assert got.first.total == got.second.total
    assert got.unpaired_error > 0
    assert got.shared_draws
    assert got.sentence("a", "b") == (
        "a is ahead by 0.000 ± 0.000 bits/dim: no difference that these images could show."
    )


def test_the_paired_error_is_far_smaller_than_the_unpaired(reverse):
    got = compare(reverse, perturbed(reverse, 1e-3), pictures(20))
    assert 0 < got.standard_error < 0.05 * got.unpaired_error
    assert 0 < got.sampling_error < 0.05 * got.unpaired_error
    expected = math.hypot(got.first.standard_error, got.second.standard_error)
    assert got.unpaired_error == pytest.approx(expected, rel=1e-12)


def by_level(data):
    return data.bound_by_level(data.schedule.betas).sum(dim=1)


def wrong(data, m):
    """A model of the same data that believes in another mean."""
    return replace(data, m=m).reverse()


def test_positive_is_for_the_first_and_the_size_is_right():
    """β of T = 50 against β of T = 50 with another mean, and with β̃: closed forms know the one, signs the other."""
    images = GAUSSIAN.images(60, (1, 4, 4), 0)
    exact, small = GAUSSIAN.reverse(), GAUSSIAN.reverse(FixedSmall())
    variances = GAUSSIAN.schedule.posterior_variances.clone()
    variances[1] = variances[2]
    difference = GAUSSIAN.bound_by_level(variances).sum(dim=1) - by_level(GAUSSIAN)
    truth = float(difference[torch.from_numpy(images).long()].mean())
    got = compare(exact, small, images, evaluations_per_image=60)
    assert got.difference == pytest.approx(got.second.bits_per_dim - got.first.bits_per_dim, rel=1e-9)
    assert abs(got.difference - truth) < 4 * got.sampling_error < 0.5 * truth
    assert got.difference > got.half_width > 0
    back = compare(small, exact, images, evaluations_per_image=60)
    assert back.difference < -back.half_width
    assert abs(back.difference + truth) < 4 * back.sampling_error
    worse = compare(wrong(GAUSSIAN, -0.4), exact, images)
    assert worse.sentence("bad", "good").startswith("good is better than bad by ")


def test_models_of_different_T_are_compared_too():
    """Without shared steps, but on the same images; the difference is known in closed form."""
    long = GaussianData(NoiseSchedule.linear(120))
    images = GAUSSIAN.images(60, (1, 4, 4), 0)
    levels = torch.from_numpy(images).long()
    counted = []
    got = compare(
        GAUSSIAN.reverse(), long.reverse(), images, evaluations_per_image=40, on_batch=counted.append
    )
    truth = float((by_level(long) - by_level(GAUSSIAN))[levels].mean())
    assert not got.shared_draws
    assert abs(got.difference - truth) < 4 * got.sampling_error < 0.3
    assert got.standard_error < got.unpaired_error
    assert sum(counted) == got.first.network_evaluations + got.second.network_evaluations
    assert got.first.pilot_evaluations == got.second.pilot_evaluations == 2 * 16 * 24


def by_hand(got, num_images):
    """Round by round and image by image: the differences, the error over these images, over the population."""
    rounds = zip(got.first.rounds, got.second.rounds)
    values = np.stack([b.totals("").numpy() - a.totals("").numpy() for a, b in rounds])
    values = values + (got.second.priors - got.first.priors).numpy()
    means, within = values.mean(axis=0), values.var(axis=0, ddof=1).mean()
    sampling = math.sqrt(within / len(values) / num_images)
    return means.mean(), sampling, means.std(ddof=1) / math.sqrt(num_images)


@pytest.mark.parametrize("num_timesteps", [20, 30])
def test_the_errors_are_those_of_the_differences(reverse, tiny_network, num_timesteps):
    other = ReverseProcess(tiny_network(), NoiseSchedule.linear(num_timesteps, 1e-3, 0.3)).eval()
    got = compare(reverse, other, pictures(12), evaluations_per_image=10)
    difference, sampling, population = by_hand(got, 12)
    assert got.difference == pytest.approx(difference, rel=1e-9)
    assert got.sampling_error == pytest.approx(sampling, rel=1e-9)
    assert got.standard_error == pytest.approx(population, rel=1e-9)
    assert got.half_width == pytest.approx(scipy.stats.t.ppf(0.975, 11) * population, rel=2e-3)
    assert bool((got.first.priors != got.second.priors).all())


def test_both_meet_the_same_steps_and_noise_at_the_firsts_plan(reverse):
    other, counted = perturbed(reverse, 0.1), []
    got = compare(
        reverse, other, pictures(8), evaluations_per_image=10, seed=5, batch_size=9, on_batch=counted.append
    )
    pilot = 2 * 8 * 20
    mine, others = (torch.cat(model.network.seen) for model in (reverse, other))
    assert torch.equal(mine[pilot:], others)
    for one, two in zip(got.first.rounds, got.second.rounds):
        assert torch.equal(one.t, two.t)
        assert torch.equal(one.weights, two.weights)
    alone = estimate_likelihood(reverse, pictures(8), evaluations_per_image=10, seed=5, batch_size=9)
    assert got.first.total == alone.total
    assert (got.first.network_evaluations, got.first.pilot_evaluations) == (80 + pilot, pilot)
    assert (got.second.network_evaluations, got.second.pilot_evaluations) == (80, 0)
    assert sum(counted) == 160 + pilot
    assert compare(reverse, other, pictures(8), seed=6).first.total != got.first.total


@pytest.mark.parametrize("evaluations", [2, 3, 40])
def test_few_and_many_evaluations(reverse, evaluations):
    got = compare(reverse, perturbed(reverse, 0.1), pictures(5), evaluations_per_image=evaluations)
    per_image = got.second.network_evaluations / 5
    assert per_image == min(evaluations, 40)
    assert math.isnan(got.sampling_error) == (evaluations < 4)
    assert got.standard_error > 0


def test_variants_of_one_sweep_are_paired(reverse):
    got = estimate_variants({"a": reverse, "b": reverse.with_variance(FixedSmall())}, pictures(9))
    figure, half_width = paired(got["a"], got["b"])
    assert figure.value == pytest.approx(got["b"].bits_per_dim - got["a"].bits_per_dim, rel=1e-9)
    assert half_width == pytest.approx(scipy.stats.t.ppf(0.975, 8) * figure.population_error, rel=2e-3)
    back, _ = paired(got["b"], got["a"])
    assert back.value == pytest.approx(-figure.value, rel=1e-12)
    assert back.population_error == pytest.approx(figure.population_error, rel=1e-12)


@pytest.mark.parametrize(
    ("difference", "half_width", "sentence"),
    [
        (0.25, 0.2, "a is better than b by 0.250 ± 0.100 bits/dim."),
        (-0.25, 0.2, "b is better than a by 0.250 ± 0.100 bits/dim."),
        (0.15, 0.2, "a is ahead by 0.150 ± 0.100 bits/dim: no difference that these images could show."),
        (-0.15, 0.2, "b is ahead by 0.150 ± 0.100 bits/dim: no difference that these images could show."),
    ],
)
def test_the_verdict(reverse, difference, half_width, sentence):
    got = compare(reverse, reverse, pictures(2), evaluations_per_image=2)
    got = replace(got, difference=difference, standard_error=0.1, half_width=half_width)
    assert got.sentence("a", "b") == sentence


def test_of_one_image_nothing_is_said_of_others(reverse):
    got = compare(reverse, perturbed(reverse, 0.1), pictures(1))
    assert math.isnan(got.standard_error)
    assert math.isnan(got.half_width)
    assert got.sampling_error > 0
    better = "a" if got.difference > 0 else "b"
    assert got.sentence("a", "b") == f"{better} is better on this one image; of others it says nothing."


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": pictures(0)}, "^there is no image to evaluate on; give --data"),
        ({"evaluations_per_image": 1}, "^evaluations per image is 1; give at least 2"),
        ({"batch_size": 0}, "^batch size is 0; give at least 1"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_any_call(reverse, options, message):
    with pytest.raises(ValueError, match=message):
        compare(reverse, reverse, **{"images": pictures(2), **options})
    assert reverse.network.seen == []
