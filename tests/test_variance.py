from dataclasses import dataclass

import pytest
import torch
from torch.testing import assert_close

from exact import ExactVariance, GaussianData
from nelbo import (
    X0,
    Analytic,
    FixedLarge,
    FixedSmall,
    LearnedRange,
    NoiseSchedule,
    ReverseProcess,
    bound_term,
)
from nelbo.variance import AbstractVariance


def test_fixed_variances_and_the_first_step(schedule):
    """Lecture: simplify as β_t I."""
    x = torch.zeros(1, 1, dtype=torch.float64)
    for t in range(1, min(schedule.num_timesteps, 30) + 1):
        assert_close(FixedLarge().log_variance(schedule, t, x).exp().squeeze(), schedule.betas[t])
        small = FixedSmall().log_variance(schedule, t, x).exp().squeeze()
        assert_close(small, schedule.posterior_variances[max(t, 2)])  # σ_1² := β̃_2


def test_a_single_step_has_only_beta_1():
    one = NoiseSchedule.from_betas([0.3])
    x = torch.zeros(1, 1, dtype=torch.float64)
    assert float(FixedSmall().log_variance(one, 1, x).exp()) == pytest.approx(0.3, rel=1e-12)


def test_the_first_step_of_fixed_large_can_be_that_of_published_code(schedule):
    x = torch.zeros(1, 1, dtype=torch.float64)
    first_is_small = FixedLarge(first_is_small=True)
    assert_close(first_is_small.log_variance(schedule, 1, x), FixedSmall().log_variance(schedule, 1, x))
    for t in (2, 3, schedule.num_timesteps):
        assert_close(first_is_small.log_variance(schedule, t, x), FixedLarge().log_variance(schedule, t, x))
    assert FixedLarge() == FixedLarge(first_is_small=False) != first_is_small


def test_learned_range_reaches_both_ends_and_lies_between(schedule):
    t = torch.tensor([1, 2, schedule.num_timesteps])
    output = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64).expand(3, 1, 1, 3)
    x = torch.zeros(3, 1, 1, 3, dtype=torch.float64)
    learned = LearnedRange().log_variance(schedule, t, x, output)
    small = FixedSmall().log_variance(schedule, t, x)
    large = FixedLarge().log_variance(schedule, t, x)
    assert_close(learned[..., 0], small[..., 0])
    assert_close(learned[..., 1], (0.5 * (small + large))[..., 0])
    assert_close(learned[..., 2], large[..., 0])


def test_learned_range_needs_its_channels():
    with pytest.raises(ValueError, match="2·C output channels"):
        LearnedRange().log_variance(NoiseSchedule.linear(), 1, torch.zeros(1, 1), None)


@dataclass(frozen=True)
class Shifted(AbstractVariance):
    """Another variance, σ² times a factor."""

    base: AbstractVariance
    shift: float

    def log_variance(self, schedule, t, x_t, variance_output=None):
        return self.base.log_variance(schedule, t, x_t, variance_output) + self.shift


def draws(data):
    """x_0 and ε: a rule that integrates every quadratic over N(m, s²) × N(0, 1)."""
    eps = torch.tensor([-1.0, -1.0, 1.0, 1.0], dtype=torch.float64).reshape(4, 1, 1, 1)
    return data.m + data.s * eps.roll(1, 0), eps


def measured_errors(reverse, data):
    x_0, eps = draws(data)
    errors = torch.zeros(reverse.schedule.num_timesteps + 1, dtype=torch.float64)
    for t in range(1, len(errors)):
        x_t = reverse.forward_process.q_marginal(x_0, t).reparameterize(eps)
        errors[t] = ((x_0 - reverse.predict(x_t, t).x_0) ** 2).mean()
    return errors


KEPT = [2, 3, 11, 19, 20]


@pytest.mark.parametrize("kept", [range(1, 21), KEPT], ids=["whole", "respaced"])
def test_analytic_is_the_exact_variance_of_gaussian_data(kept):
    data = GaussianData(NoiseSchedule.linear(20, 0.01, 0.4))
    errors = measured_errors(ReverseProcess(data.network, data.schedule, X0(), clip=False), data)
    schedule, x = data.schedule.respaced(kept), torch.zeros(1, 1, dtype=torch.float64)
    for k in range(1, len(kept) + 1):
        analytic = Analytic(errors, errors).log_variance(schedule, k, x)  # Var(x_0|x_1) is e_1
        assert_close(analytic, ExactVariance(data.s).log_variance(schedule, k, x), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("network", ["exact", "wrong"])
@pytest.mark.parametrize("kept", [range(1, 21), KEPT], ids=["whole", "respaced"])
def test_no_other_variance_has_less_divergence(network, kept):
    data = GaussianData(NoiseSchedule.linear(20, 0.01, 0.4))
    answer = data.network if network == "exact" else lambda x_t, clock: 0.7 * data.network(x_t, clock) + 0.2
    reverse = ReverseProcess(answer, data.schedule, X0(), clip=False)
    best = Analytic(measured_errors(reverse, data), torch.ones(21))
    reverse = reverse.with_schedule(data.schedule.respaced(kept))
    x_0, eps = draws(data)
    for k in range(2, len(kept) + 1):
        at_best, *others = (
            float(bound_term(reverse.with_variance(variance), x_0, eps, k).mean())
            for variance in (best, Shifted(best, 0.01), Shifted(best, -0.01))
        )
        # KL″ = ½ in ln σ² at the minimum: 0.01² / 4 either way.
        assert [other - at_best for other in others] == pytest.approx([2.5e-5, 2.5e-5], rel=0.02)


def test_the_decoders_variance_is_that_of_the_first_step_kept():
    schedule, values = NoiseSchedule.linear(), torch.arange(1001, dtype=torch.float64)
    analytic, x = Analytic(torch.ones(1001), values), torch.zeros(1, 1, dtype=torch.float64)
    assert_close(analytic.log_variance(schedule, 1, x).exp().squeeze(), values[1])
    assert_close(analytic.log_variance(schedule.respaced([37, 900]), 1, x).exp().squeeze(), values[37])
    assert_close(analytic.log_variance(schedule.respaced([900]), 1, x).exp().squeeze(), values[900])


def test_analytic_refuses_errors_of_another_length():
    with pytest.raises(
        ValueError, match=r"errors has shape \(5,\) and decoder_variances \(4,\); both need T\+1"
    ):
        Analytic(torch.ones(5), torch.ones(4))
    short, whole = Analytic(torch.ones(501), torch.ones(501)), NoiseSchedule.linear()
    reverse = ReverseProcess(lambda x, clock: x, whole.respaced([1, 500]), variance=short)
    with pytest.raises(
        ValueError, match=r"errors for t = 1..500, and the schedule goes to t = 1000; measure"
    ):
        reverse.with_schedule(whole)
    with pytest.raises(ValueError, match=r"the schedule goes to t = 501"):
        ReverseProcess(lambda x, clock: x, whole.respaced([1, 501])).with_variance(short)
