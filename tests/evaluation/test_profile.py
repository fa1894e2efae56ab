"""The errors of x̂_0 over t, and what follows from them: variances and paths, on data of which all is known."""

import itertools
import json
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from exact import ExactVariance, GaussianData
from nelbo import (
    DiscretizedGaussian,
    FixedLarge,
    FixedSmall,
    LearnedRange,
    NoiseSchedule,
)
from nelbo.config import from_json, to_json
from nelbo.evaluation.likelihood import estimate_likelihood, estimate_variants
from nelbo.evaluation.plan import geometric
from nelbo.evaluation.profile import ErrorCounter, ErrorProfile
from nelbo.paths import even, quadratic, step_costs
from nelbo.variance import AbstractVariance

NARROW = GaussianData(NoiseSchedule.linear(200), 0.1, 0.2)  # no value is black or white
WIDE = GaussianData(NoiseSchedule.linear(22), 0.3, 0.5)  # 9 % of the values are; every step is a knot
SHAPE = (1, 8, 8)


def profile_of(data, clip, num_images, evaluations, plan=None):
    counter = ErrorCounter(data.schedule.num_timesteps)
    images = data.images(num_images, SHAPE, 0)
    found = estimate_variants(
        {"": data.reverse(clip=clip)},
        images,
        evaluations_per_image=evaluations,
        plan=plan,
        on_errors=counter.add,
        batch_size=4096,
    )[""]
    return counter.profile(num_images), found


@pytest.fixture(scope="module")
def narrow():
    """From a few steps of each image: as many draws for every knot."""
    return profile_of(NARROW, False, 300, 80, geometric(200, 40))[0]


@pytest.fixture(scope="module", params=[True, False], ids=["clipped", "unclipped"])
def wide(request):
    """From every step: the profile, the process, and what the same draws say of its bound."""
    profile, found = profile_of(WIDE, request.param, 100, 44)
    return profile, WIDE.reverse(clip=request.param), found


def test_the_errors_are_var_x_0_given_x_t(narrow):
    """64 pixels, 200 draws or more for a knot: a standard error of 1.2 % at most."""
    ratio = narrow.errors_by_step()[1:] / NARROW.posterior_variances()[1:]
    assert narrow.errors_by_step()[0] == 0
    assert (ratio - 1).abs().max() < 0.05
    assert float((ratio - 1).square().mean().sqrt()) < 0.012
    assert len(narrow.errors_by_step()) == 201
    assert (narrow.num_timesteps, narrow.num_images) == (200, 300)
    assert list(narrow.knots) == sorted(narrow.knots)
    assert len(narrow.knots) == len(narrow.errors) == len(narrow.decoder_costs) > 40


@pytest.mark.parametrize("kept", [range(1, 201), [200], [1, 7, 60, 199, 200], [40, 200]], ids=len)
def test_the_analytic_variance_is_the_exact_one(narrow, kept):
    """Var(x_{t−1}|x_t) at T as under respaced schedules, to 2 %; that of the decoder to a step of its grid."""
    schedule, analytic = NARROW.schedule.respaced(kept), narrow.analytic()
    t = torch.arange(1, len(kept) + 1)
    x = torch.zeros(len(kept), 1, dtype=torch.float64)
    away = (
        analytic.log_variance(schedule, t, x) - ExactVariance(NARROW.s).log_variance(schedule, t, x)
    ).flatten()
    assert (away[1:].abs() < 0.02).all()
    assert abs(float(away[0])) < 0.15


@pytest.mark.parametrize("t", [1, 2, 20, 200])
def test_the_decoder_gets_its_best_variance(narrow, t):
    """Whichever step comes first: no other σ_1² has an L_0 that is less by more than the grid between."""
    data = replace(NARROW, schedule=NARROW.schedule.respaced([t]))

    def l_0(variance):
        of_level = data.bound_by_level(torch.tensor([0.0, variance], dtype=torch.float64))[:, 1]
        return float(data.level_probabilities() @ of_level)

    got = float(narrow.analytic().decoder_variances[t])
    least = min(l_0(got * factor) for factor in np.exp(np.linspace(-0.4, 0.4, 41)))
    assert l_0(got) < least + 0.005


def test_the_decoders_cost_is_that_of_the_errors_themselves():
    """Values of every kind: inner, outer, outer with x̂_0 beyond, in two batches; on four variances."""
    draw = torch.Generator().manual_seed(0)
    x_0 = torch.tensor([-1.0, 1.0, 1 / 255, 253 / 255]).double().repeat(500)[None, :, None].repeat(6, 1, 1)
    residual = 0.02 * torch.randn(x_0.shape, generator=draw, dtype=torch.float64)
    t = torch.tensor([1, 1, 1, 9, 9, 9])
    residual[3:] *= 5
    counter = ErrorCounter(9)
    counter.add(t[:2], x_0[:2], residual[:2])
    counter.add(t[2:], x_0[2:], residual[2:])
    profile = counter.profile(6)
    assert profile.knots == pytest.approx([1.0, 9.0])
    assert profile.errors == pytest.approx(
        [float(residual[:3].square().mean()), float(residual[3:].square().mean())], rel=1e-12
    )
    for index in (30, 50, 60, 80):
        log_variance = torch.tensor(profile.log_variances[index], dtype=torch.float64)
        for place, rows in enumerate((slice(0, 3), slice(3, 6))):
            decoder = DiscretizedGaussian(x_0[rows] - residual[rows], log_variance)
            direct = -float(decoder.log_prob(x_0[rows]).mean()) / 2000
            assert profile.decoder_costs[place][index] == pytest.approx(direct, rel=3e-3)


def test_it_survives_json(narrow):
    again = from_json(ErrorProfile, json.loads(json.dumps(to_json(narrow))), "profile.json")
    assert again == narrow
    assert torch.equal(again.analytic().errors, narrow.analytic().errors)


def variance_of(name, profile):
    return {
        "large": FixedLarge(),
        "first small": FixedLarge(first_is_small=True),
        "small": FixedSmall(),
        "analytic": profile.analytic(),
    }[name]


VARIANCES = pytest.mark.parametrize("name", ["large", "first small", "small", "analytic"])
KINDS = {
    "large": "fixed-large",
    "first small": "fixed-large",
    "small": "fixed-small",
    "analytic": "analytic",
}


def predicted(profile, schedule, name):
    """What a path costs, bits/dim: its steps by their formula, L_0 at the variance that the first step has."""
    steps = step_costs(schedule, profile.errors_by_step(), KINDS[name])
    variance, by_step = variance_of(name, profile), profile.decoder_costs_by_step()

    def cost(path):
        x = torch.zeros(1, 1, dtype=torch.float64)
        log_variance = float(variance.log_variance(schedule.respaced(path), 1, x, None))
        l_0 = np.interp(log_variance, profile.log_variances, by_step[path[0]])
        return (l_0 + float(sum(steps[s, t] for s, t in itertools.pairwise(path)))) / math.log(2)

    return cost


@VARIANCES
def test_the_bound_of_a_path_is_as_predicted(wide, name):
    """Even and optimal paths: the prediction, and what an estimate on the same images finds."""
    profile, reverse, found = wide
    schedule, variance = reverse.schedule, variance_of(name, profile)
    cost, paths = predicted(profile, schedule, name), profile.paths(schedule, variance)
    images = WIDE.images(100, SHAPE, 0)
    for num_steps in (2, 4, 9, 22):
        for path in (even(22, num_steps), paths[num_steps]):
            short = reverse.with_variance(variance).with_schedule(schedule.respaced(path))
            got = estimate_likelihood(
                short, images, evaluations_per_image=2 * num_steps, seed=1, batch_size=5000
            )
            error = got.total.sampling_error * 2**0.5  # the profile's draws were as many
            measured = got.bits_per_dim - got.prior.value
            assert abs(cost(path) - measured) < 4 * error + 0.004  # between the 96 variances of the grid
            assert error < 0.02 * measured
    if name == "large":  # on the profile's own draws
        own = found.bits_per_dim - found.prior.value
        assert cost(range(1, 23)) == pytest.approx(own, abs=0.004)
        assert cost(range(1, 23)) >= own - 1e-4  # interpolation of a convex function


@VARIANCES
def test_the_optimal_path_is_the_best_of_all(wide, name):
    profile, reverse, _ = wide
    cost = predicted(profile, reverse.schedule, name)
    paths = profile.paths(reverse.schedule, variance_of(name, profile))
    assert sorted(paths) == list(range(1, 23))
    assert paths[1] == [22]
    for num_steps, path in paths.items():
        assert len(path) == num_steps
        assert path[-1] == 22
        if num_steps > 1:
            for other in (even(22, num_steps), quadratic(22, num_steps)):
                assert cost(path) <= cost(other) + 1e-9
    for num_steps in (2, 3):
        every = ([*inner, 22] for inner in itertools.combinations(range(1, 22), num_steps - 1))
        assert cost(paths[num_steps]) == pytest.approx(min(map(cost, every)), rel=1e-9)


def test_the_optimal_path_is_better_in_truth(narrow):
    """Against the closed form, which knows nothing of the profile: well ahead of the even path, at every K."""
    paths = narrow.paths(NARROW.schedule, FixedLarge())

    def bound(path):
        data = replace(NARROW, schedule=NARROW.schedule.respaced(path))
        return float(data.level_probabilities() @ data.bound_by_level(data.schedule.betas).sum(dim=1))

    for num_steps in (3, 10, 30, 100):
        best, rule, squares = map(bound, (paths[num_steps], even(200, num_steps), quadratic(200, num_steps)))
        assert best < rule - 0.03
        assert best < squares + 0.003


@dataclass(frozen=True)
class Odd(AbstractVariance):
    def log_variance(self, schedule, t, x_t, variance_output=None):
        return torch.zeros(())


def test_a_learned_variance_takes_the_path_of_the_analytic_one_and_another_none(wide):
    profile, reverse, _ = wide
    analytic = profile.paths(reverse.schedule, profile.analytic())
    assert profile.paths(reverse.schedule, LearnedRange()) == analytic
    assert profile.paths(reverse.schedule, FixedLarge()) != analytic
    with pytest.raises(ValueError, match=r"^no path can be computed for a Odd: choose a fixed variance$"):
        profile.paths(reverse.schedule, Odd())


def test_the_analytic_variance_is_the_best_fixed_one(wide):
    """Of the same draws: less than β, less than β̃."""
    profile, reverse, found = wide
    images = WIDE.images(100, SHAPE, 0)
    best, small = (
        estimate_likelihood(
            reverse.with_variance(variance), images, evaluations_per_image=44, batch_size=5000
        ).bits_per_dim
        for variance in (profile.analytic(), FixedSmall())
    )
    assert best < found.bits_per_dim - 0.02
    assert best < small - 0.02


def test_one_step_is_a_profile_too():
    data = GaussianData(NoiseSchedule.from_betas([0.5]), 0.1, 0.2)
    profile, _ = profile_of(data, False, 50, 4)
    assert profile.knots == pytest.approx([1.0])
    assert profile.errors_by_step()[1] == pytest.approx(float(data.posterior_variances()[1]), rel=0.1)
    assert profile.paths(data.schedule, FixedLarge()) == {1: [1]}
