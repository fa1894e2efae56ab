"""Plans: unbiased whatever they say, and good where a pilot says it."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from nelbo.evaluation.plan import (
    Plan,
    allocated,
    every_step,
    geometric,
    interpolated,
    strata,
    student_975,
)


def steps_of(ranges):
    return [t for first, last in ranges for t in range(first, last + 1)]


def spreads(data, num_timesteps):
    """Any spread at all: over many orders of magnitude, or nothing but a peak."""
    logs = data.draw(st.lists(st.floats(-12, 3), min_size=1, max_size=num_timesteps + 1))
    return 10.0 ** torch.tensor(np.resize(logs, num_timesteps + 1), dtype=torch.float64)


@given(st.data(), st.integers(1, 1200), st.integers(1, 1300))
def test_the_strata_cover_2_to_T_exactly_once(data, num_timesteps, num_strata):
    ranges = strata(spreads(data, num_timesteps), num_strata)
    assert steps_of(ranges) == list(range(2, num_timesteps + 1))
    assert len(ranges) == min(num_strata, num_timesteps - 1)
    assert all(first <= last for first, last in ranges)


def test_the_strata_have_equal_shares_of_the_spread():
    spread = torch.rand(100_001, dtype=torch.float64)
    spread[:2] = 1e9  # of t = 0 and t = 1, which are not its own
    shares = [float(spread[first : last + 1].sum()) for first, last in strata(spread, 7)]
    assert shares == pytest.approx([sum(shares) / 7] * 7, abs=1.01)  # a step more or less
    spread = torch.zeros(11, dtype=torch.float64)
    spread[[2, 3, 9]] = 1.0
    assert strata(spread, 3) == [(2, 2), (3, 3), (4, 10)]
    assert strata(spread, 2) == [(2, 3), (4, 10)]
    assert strata(spread, 1) == [(2, 10)]


def every_outcome(plan):
    """Every (slot, t) that a plan can draw, its probability and its weight, from a fine grid of u."""
    size = 4000
    u = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    found = []
    for slot in range(len(plan.slots)):
        t, weights = plan.draw(torch.full((size,), slot), u)
        for step in t.unique().tolist():
            hit = t == step
            assert len(weights[hit].unique()) == 1
            found.append((slot, step, float(hit.double().mean()), float(weights[hit][0])))
    return found


PLANS = {
    "two slots": Plan(((1, 1), (2, 4), (5, 9)), torch.rand(10, dtype=torch.float64) + 0.1),
    "often first": Plan(((1, 1),) * 3 + ((2, 9),), torch.arange(1, 11, dtype=torch.float64)),
    "geometric": geometric(40, 6),
    "every step": every_step(7),
    "one step": every_step(1),
}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_the_weighted_sum_is_unbiased_exactly(plan):
    """E Σ w f(t) = Σ f(t) for any f: what a (slot, t) is drawn with, times its weight, adds up to 1 for each t."""
    num_timesteps = len(plan.density) - 1
    times = torch.zeros(num_timesteps + 1, dtype=torch.float64)
    for slot, t, probability, weight in every_outcome(plan):
        first, last = plan.slots[slot]
        assert first <= t <= last
        expected = plan.density[t] / plan.density[first : last + 1].sum()
        assert probability == pytest.approx(float(expected), abs=1 / 4000)
        assert weight == pytest.approx(1 / plan.num_first if t == 1 else 1 / float(expected), rel=1e-12)
        times[t] += float(expected) * weight
    assert_close(times[1:], torch.ones(num_timesteps, dtype=torch.float64), rtol=1e-12, atol=0)


def test_the_ends_of_the_unit_interval_stay_within_the_slot():
    """Where the running total has lost a small density, rounding must not lead out of the slot."""
    density = torch.tensor([1.0, 1e17, 1.0, 3.0, 0.1, 0.2], dtype=torch.float64)
    plan = Plan(((1, 1), (2, 3), (4, 5)), density)
    for u in (0.0, 0.5, 1 - 2.0**-53):
        t, _ = plan.draw(torch.arange(3), torch.full((3,), u, dtype=torch.float64))
        assert all(first <= step <= last for step, (first, last) in zip(t.tolist(), plan.slots))
    t, _ = PLANS["two slots"].draw(torch.tensor([1, 1, 2]), torch.tensor([0.0, 1 - 2.0**-53, 0.0]).double())
    assert t.tolist() == [2, 4, 5]


def test_every_step_leaves_none_out():
    plan = every_step(5)
    t, weights = plan.draw(torch.arange(5), torch.rand(5, dtype=torch.float64))
    assert t.tolist() == [1, 2, 3, 4, 5]
    assert_close(weights, torch.ones(5, dtype=torch.float64), rtol=1e-12, atol=0)


def test_geometric_slots_grow_with_t():
    plan = geometric(1000, 25)
    lengths = [last - first + 1 for first, last in plan.slots]
    assert plan.slots[0] == (1, 1)
    assert len(lengths) == 25
    assert steps_of(plan.slots) == list(range(1, 1001))
    grown = [longer / shorter for shorter, longer in zip(lengths[8:], lengths[9:])]
    assert grown == pytest.approx([500 ** (1 / 24)] * 16, rel=0.2)  # 1.30; they are whole numbers
    assert geometric(1, 5).slots == ((1, 1),)
    assert geometric(3, 9).slots == ((1, 1), (2, 2), (3, 3))


def pilot(plan, term, relative, *, rounds=2, images=400, first_spread=None):
    """Terms ``term(t)`` × (1 + noise), of this relative standard deviation; that of L_0 may differ."""
    slots = torch.arange(len(plan.slots)).expand(rounds, images, -1)
    t, _ = plan.draw(slots.flatten(), torch.rand(slots.numel(), dtype=torch.float64))
    t = t.reshape(slots.shape)
    spread = torch.full(t.shape, relative, dtype=torch.float64)
    if first_spread is not None:
        spread[t == 1] = first_spread
    return t, term(t.double()) * (1 + spread * torch.randn(t.shape, dtype=torch.float64))


def test_the_density_is_the_mean_term():
    """Terms 3/t: their logarithm is linear in ln t, so that interpolation finds it; a tenth is spread evenly."""
    plan = allocated(*pilot(geometric(500, 24), lambda t: 3 / t, 0.05), 500, 8)
    assert steps_of(plan.slots[plan.num_first - 1 :]) == list(range(1, 501))
    for first, last in plan.slots[plan.num_first :]:
        mean = 3 / torch.arange(first, last + 1, dtype=torch.float64)
        density = plan.density[first : last + 1] - 0.1 * mean.mean()
        known = slice(None, 440 - first)  # beyond the middle of the pilot's last slot it is taken as constant
        assert_close(density[known], 0.9 * mean[known], rtol=0.05, atol=1e-4)
    assert len(plan.slots) == 8


def test_slots_have_equal_shares_of_the_spread_that_a_pilot_finds():
    plan = allocated(*pilot(geometric(2000, 24), lambda t: 3 / t, 0.3), 2000, 9)
    harmonic = (1 / torch.arange(1, 2001, dtype=torch.float64)).cumsum(0)
    assert plan.num_first == 1
    shares = [float(harmonic[last - 1] - harmonic[first - 2]) for first, last in plan.slots[1:]]
    assert shares[2:] == pytest.approx(
        [float(harmonic[-1] - 1) / 8] * 6, rel=0.12
    )  # the first are of few steps


def test_slots_are_shorter_where_equal_terms_spread_more():
    """The spread that counts is that between draws of the same image: what images differ by costs nothing."""
    t, terms = pilot(geometric(100, 20), torch.ones_like, 0.3)
    image = torch.randn(terms.shape[1], 1, dtype=torch.float64).exp()  # a relative spread of 1.3
    terms = torch.where(t > 50, terms, image / image.mean())
    plan = allocated(t, terms, 100, 10)
    # Half of the steps have the spread 0.3, the other half the least there is, 0.3 times the median.
    assert 6 <= sum(first > 50 for first, _ in plan.slots) <= 8


@pytest.mark.parametrize(("first_spread", "num_first"), [(0.0, 1), (0.4, 2), (1.0, 4), (3.0, 6)])
def test_l_0_is_drawn_as_often_as_its_spread_deserves(first_spread, num_first):
    """Terms 3/t, spread 0.3: of 12 draws s/(s + 0.3 (ln 1000 + 0.577 − 1)) are of L_0, at most half of them."""
    t, terms = pilot(geometric(1000, 24), lambda t: 3 / t, 0.3, first_spread=first_spread)
    plan = allocated(t, terms, 1000, 12)
    assert plan.num_first == num_first
    assert len(plan.slots) == 12


def test_a_pilot_that_finds_nothing_still_makes_a_plan():
    """As a perfect network with the variance of the posterior does: every term but L_0 is 0."""
    t, terms = pilot(geometric(50, 12), lambda t: (t == 1).double(), 0.0)
    plan = allocated(t, terms, 50, 6)
    assert (plan.density > 0).all()
    assert steps_of(plan.slots[plan.num_first - 1 :]) == list(range(1, 51))
    assert all(math.isfinite(weight) for *_, weight in every_outcome(plan))


@pytest.mark.parametrize("num_slots", [1, 2, 3, 4, 29])
def test_a_plan_has_as_many_slots_as_asked_for(num_slots):
    plan = allocated(*pilot(geometric(30, 24), lambda t: 1 / t, 0.3, images=16), 30, num_slots)
    assert len(plan.slots) == num_slots
    assert plan.num_first <= max(1, num_slots // 2)


def test_interpolation_is_numpys():
    knots = torch.tensor([0.5, 1.0, 4.0, 4.5], dtype=torch.float64)
    values = torch.tensor([3.0, -1.0, 2.0, 7.0], dtype=torch.float64)
    x = torch.linspace(-1, 6, 57, dtype=torch.float64)
    assert_close(interpolated(x, knots, values).numpy(), np.interp(x, knots, values), rtol=1e-12, atol=1e-12)
    assert interpolated(x, knots[:1], values[:1]).tolist() == [3.0] * 57


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 7, 10, 15, 30, 100, 10_000])
def test_students_quantile_is_scipys(degrees):
    assert student_975(degrees) == pytest.approx(scipy.stats.t.ppf(0.975, degrees), rel=2e-3)


def test_no_degree_of_freedom_no_quantile():
    assert math.isnan(student_975(0))
