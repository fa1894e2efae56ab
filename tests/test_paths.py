"""Paths by rule, and the best path: against every path there is, and against the bound itself."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from exact import GaussianData
from nelbo import X0, Analytic, FixedLarge, FixedSmall, NoiseSchedule, ReverseProcess, bound_term
from nelbo.paths import PATHS, optimal, optimal_paths, step_costs

SHORT = NoiseSchedule.linear(9, 0.01, 0.5)


@given(st.integers(1, 1200), st.data(), st.sampled_from(sorted(PATHS)))
def test_a_path_increases_from_1_to_T(num_timesteps, data, name):
    num_steps = data.draw(st.integers(1, num_timesteps))
    path = PATHS[name](NoiseSchedule.cosine(num_timesteps), num_steps)
    assert len(path) == num_steps
    assert all(a < b for a, b in zip(path, path[1:]))
    assert path[-1] == num_timesteps
    assert path[0] == (1 if num_steps > 1 else num_timesteps)


def test_quadratic_is_denser_near_the_data():
    path = PATHS["quadratic"](NoiseSchedule.linear(), 20)
    assert path[1] - path[0] < path[-1] - path[-2]


def test_shifted_is_three_times_as_dense_near_the_noise_and_a_third_near_the_data():
    path = PATHS["shifted"](NoiseSchedule.linear(100_000), 1000)
    assert path[-1] - path[-2] == pytest.approx(100 / 3, abs=0.6)
    assert path[1] - path[0] == pytest.approx(300, rel=0.01)


def test_log_snr_is_even_in_the_logarithm_of_signal_over_noise():
    schedule = NoiseSchedule.linear(50_000)
    path = PATHS["log-snr"](schedule, 12)
    gaps = schedule.snr[path].log().diff()
    torch.testing.assert_close(gaps, gaps.mean().expand(11), rtol=0.02, atol=0)


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_impossible_steps_are_refused(steps):
    with pytest.raises(ValueError, match=f"steps is {steps}; choose 1..1000"):
        PATHS["even"](NoiseSchedule.linear(), steps)


def total(path, steps, firsts):
    return float(firsts[path[0], path[1]] + sum(steps[s, t] for s, t in zip(path, path[1:])))


def every_path(last, num_steps):
    return ([*inner, last] for inner in itertools.combinations(range(1, last), num_steps - 1))


@pytest.mark.parametrize("last", [9, 7, 2])
@pytest.mark.parametrize("seed", range(5))
def test_the_best_path_is_the_best_of_all(last, seed):
    """Costs without any structure; L_0 depends on the second step, too."""
    draw = np.random.default_rng(seed)
    steps, firsts = torch.tensor(draw.random((10, 10))), torch.tensor(draw.random((10, 10)))
    paths = optimal_paths(steps, firsts, last=last)
    assert list(paths) == list(range(1, last + 1))
    assert paths[1] == [last]
    for num_steps in range(2, last + 1):
        best = min(every_path(last, num_steps), key=lambda path: total(path, steps, firsts))
        assert paths[num_steps] == best == optimal(steps, firsts, num_steps, last)
    assert optimal_paths(steps, firsts, 3, last if last > 2 else 9) == {
        k: path for k, path in optimal_paths(steps, firsts, last=last if last > 2 else 9).items() if k <= 3
    }


def test_banned_steps_are_not_taken():
    steps, firsts = torch.rand(10, 10).double(), torch.zeros(10, 10)
    steps[:, [3, 4, 5]] = torch.inf  # no step from there
    steps[0], steps[9, 1] = torch.nan, torch.nan  # never read
    paths = optimal_paths(steps, firsts)
    assert list(paths) == [1, 2, 3, 4, 5, 6]  # 1, 2 and then 6 to 9 at the most
    assert all(not {3, 4, 5} & set(path[1:]) for path in paths.values())
    with pytest.raises(ValueError, match="no path of 7 steps has a finite cost"):
        optimal(steps, firsts, 7)
    steps[2, 6] = torch.nan
    with pytest.raises(ValueError, match=r"step_costs\[2, 6\] is NaN; give the cost of every step"):
        optimal(steps, firsts, 2)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((10, 9), {}, r"step_costs is \(10, 10\) and first_costs \(10, 9\); both must be \(T\+1, T\+1\)"),
        ((10, 10), {"last": 10}, "last is 10; choose 1..9"),
        ((10, 10), {"last": 0}, "last is 0; choose 1..9"),
        ((10, 10), {"max_steps": 10}, "steps is 10; choose 1..9"),
        ((10, 10), {"max_steps": 0}, "steps is 0; choose 1..9"),
        ((10, 10), {"last": 4, "max_steps": 5}, "steps is 5; choose 1..4"),
    ],
)
def test_what_is_refused(shape, options, message):
    with pytest.raises(ValueError, match=message):
        optimal_paths(torch.zeros(10, 10), torch.zeros(shape), **options)


def gaussian_errors(data):
    """Var(x_0|x_t)."""
    s = data.schedule
    return data.s**2 * s.one_minus_alphas_bar / (s.alphas_bar * data.s**2 + s.one_minus_alphas_bar)


@pytest.mark.parametrize(
    "schedule", [SHORT, NoiseSchedule.linear(), NoiseSchedule.cosine(1000, s=0.0)], ids=repr
)
@pytest.mark.parametrize("name", ["fixed-large", "fixed-small", "analytic"])
def test_a_step_costs_the_expected_term_of_the_respaced_bound(name, schedule):
    """Gaussian data: the term is quadratic in (x_0, ε), so that four points have its expectation exactly."""
    data = GaussianData(schedule)
    errors = gaussian_errors(data)
    variance = {
        "fixed-large": FixedLarge(),
        "fixed-small": FixedSmall(),
        "analytic": Analytic(errors, errors),
    }[name]
    reverse = ReverseProcess(data.network, schedule, X0(), variance, clip=False)
    costs = step_costs(schedule, errors, name)
    eps = torch.tensor([-1.0, -1.0, 1.0, 1.0], dtype=torch.float64).reshape(4, 1, 1, 1)
    x_0 = data.m + data.s * eps.roll(1, 0)
    T = schedule.num_timesteps
    for s, t in ((1, 2), (2, 3), (1, 5), (4, 9), (1, T), (T - 1, T), (T // 2, T // 2 + 1), (T // 3, T - 2)):
        short = reverse.with_schedule(schedule.respaced([s, t]))
        expected = bound_term(short, x_0, eps, 2).mean()
        assert_close(costs[s, t], expected, rtol=1e-9, atol=1e-14)
    steps = torch.ones(T + 1, T + 1).triu(1).bool()
    steps[0] = False
    assert torch.equal(torch.isfinite(costs), steps)
    assert torch.isposinf(costs[~steps]).all()


def test_every_path_is_as_good_where_the_model_is_exact():
    """Gaussian data, its exact variance, and L_0 = H(x_0|x_t): all chains have the bound H(x_0) + KL − L_T."""
    data = GaussianData(SHORT)
    errors = gaussian_errors(data)
    firsts = 0.5 * (2 * math.pi * math.e * errors).log()[:, None].expand(10, 10)
    costs = step_costs(SHORT, errors, "analytic")
    seen = math.log(math.sqrt(2 * math.pi * math.e * errors[9]))
    for num_steps in range(2, 10):
        for path in every_path(9, num_steps):
            assert total(path, costs, firsts) == pytest.approx(seen, rel=1e-9)


def two_levels_errors(schedule):
    """Var(x_0|x_t) for x_0 = ±1: 1 − E tanh(SNR + √SNR z)."""
    z, w = np.polynomial.hermite_e.hermegauss(100)
    z, w, snr = torch.tensor(z), torch.tensor(w / w.sum()), schedule.snr[1:, None]
    return torch.cat([torch.zeros(1).double(), 1 - (w * torch.tanh(snr + snr.sqrt() * z)).sum(1)])


@pytest.mark.parametrize("name", ["fixed-large", "fixed-small", "analytic"])
def test_with_an_exact_network_one_more_step_never_costs_more_and_with_another_it_can(name):
    schedule, firsts = NoiseSchedule.linear(30, 0.03, 0.4), torch.zeros(31, 31)
    firsts[2:] = torch.inf  # every path begins at t = 1
    firsts = firsts.double()

    def best_totals(errors):
        costs = step_costs(schedule, errors, name)
        return [total(path, costs, firsts) for k, path in optimal_paths(costs, firsts).items() if k > 1]

    exact = best_totals(two_levels_errors(schedule))
    assert len(exact) == 29
    assert all(more <= fewer + 1e-12 for fewer, more in zip(exact, exact[1:]))
    assert exact[-1] < 0.99 * exact[0]
    wrong = best_totals(torch.full((31,), 0.3).double())
    if name != "fixed-small":  # there, equal errors make all paths equal
        assert any(more > fewer + 1e-3 for fewer, more in zip(wrong, wrong[1:]))


def test_step_costs_need_an_error_for_every_step_and_a_known_variance():
    with pytest.raises(ValueError, match=r"errors has 9 values; the schedule of T = 9 needs T\+1"):
        step_costs(SHORT, torch.zeros(9), "analytic")
    with pytest.raises(
        ValueError, match="unknown variance 'learned'; choose one of analytic, fixed-large, fixed-small"
    ):
        step_costs.__wrapped__(SHORT, torch.zeros(10), "learned")
