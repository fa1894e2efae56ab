"""What benchmarks/path_terms.py claims of the two forms of the loss: docs/variance.md rests on it."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from exact import ExactVariance, GaussianData
from nelbo import (
    X0,
    FixedLarge,
    FixedSmall,
    Gaussian,
    NoiseSchedule,
    ReverseProcess,
    path_bound,
    variational_bound,
)
from nelbo.evaluation.plan import Plan

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "path_terms.py"
spec = importlib.util.spec_from_file_location("path_terms", SCRIPT)
module = importlib.util.module_from_spec(spec)
sys.modules["path_terms"] = module
spec.loader.exec_module(module)
PathTerms, log_ratio_variance, path_terms, round_variance, variances, within = (
    getattr(module, name)
    for name in ("PathTerms", "log_ratio_variance", "path_terms", "round_variance", "variances", "within")
)  # fmt: skip

SHORT = (NoiseSchedule.cosine(50), NoiseSchedule.linear().respaced([1, 10, 100, 500, 1000]))


def exact_denoiser(num_timesteps, variance, decoder=Gaussian):
    """Of N(0.3, 0.5²) data, with a continuous decoder unless told otherwise."""
    data = GaussianData(NoiseSchedule.cosine(num_timesteps))
    return ReverseProcess(data.network, data.schedule, X0(), variance, clip=False, decoder=decoder)


def paths_of(reverse, num_images, num_paths, generator):
    x_0 = 0.3 + 0.5 * torch.randn(num_images, 3, 4, 4, dtype=torch.float64, generator=generator)
    terms = path_terms(reverse, x_0.repeat_interleave(num_paths, dim=0), generator=generator)
    return x_0, terms.by_image(num_images)


@pytest.mark.parametrize("variance", [FixedLarge(), FixedSmall()], ids=lambda v: type(v).__name__)
@pytest.mark.parametrize("schedule", SHORT, ids=repr)
def test_the_same_draws_make_the_path_bound(schedule, variance, tiny_network, images):
    reverse = ReverseProcess(tiny_network(), schedule, variance=variance)
    terms = path_terms(reverse, images, generator=torch.Generator().manual_seed(3))
    expected = path_bound(reverse, images, generator=torch.Generator().manual_seed(3))
    assert_close(terms.log_ratios.sum(dim=1), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("variance", [FixedLarge(), ExactVariance()], ids=lambda v: type(v).__name__)
def test_both_forms_have_the_expectation_of_the_bound(variance, generator):
    reverse = exact_denoiser(12, variance)
    x_0 = torch.full((4000, 3, 2, 2), 0.6, dtype=torch.float64)
    terms = path_terms(reverse, x_0, generator=generator)
    bound = variational_bound(reverse, x_0, generator=generator)
    by_term = torch.cat([bound.reconstruction[:, None], bound.transitions, bound.prior[:, None]], dim=1)
    for found in (terms.log_ratios, terms.divergences):
        error = ((found.var(dim=0) + by_term.var(dim=0)) / len(x_0)).sqrt() + 1e-12
        assert float(((found.mean(dim=0) - by_term.mean(dim=0)) / error).abs().max()) < 4
        assert float(found.std(dim=0)[:-1].min()) > 0


def test_the_variance_of_a_log_ratio_by_quadrature():
    generator = torch.Generator().manual_seed(0)
    means, log_variances = (torch.randn(2, 3, 5, dtype=torch.float64, generator=generator) for _ in range(2))
    q, p = (Gaussian(m, v) for m, v in zip(means, log_variances))
    z, weights = np.polynomial.hermite_e.hermegauss(6)  # exact to degree 11; the square needs 4
    weights = torch.tensor(weights / weights.sum())
    expected = torch.zeros(3, dtype=torch.float64)
    for row in range(3):
        for column in range(5):
            one_q, one_p = (
                Gaussian(g.mean[row, column].expand(6, 1), g.log_variance[row, column]) for g in (q, p)
            )
            x = one_q.reparameterize(torch.tensor(z)[:, None])
            ratio = one_q.log_prob(x) - one_p.log_prob(x)
            expected[row] += (weights * ratio**2).sum() - (weights * ratio).sum() ** 2
    assert_close(log_ratio_variance(q, p), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "variance", [FixedLarge(), FixedSmall(), ExactVariance()], ids=lambda v: type(v).__name__
)
def test_the_forms_differ_by_a_martingale(variance, generator):
    """Var(path − KL) = Σ_t E Var(ln q/p | x_t): 2 images × 3,000 paths know a variance to ± 1.8 %."""
    _, terms = paths_of(exact_denoiser(20, variance), 2, 3000, generator)
    assert variances(terms).difference == pytest.approx(float(terms.spreads.sum(dim=2).mean()), rel=0.08)


@pytest.mark.parametrize("num_timesteps", [10, 200])
def test_at_the_exact_reverse_process_the_path_form_has_no_variance(num_timesteps, generator):
    _, terms = paths_of(exact_denoiser(num_timesteps, ExactVariance()), 3, 100, generator)
    found = variances(terms)
    assert found.path < 1e-3 < 10 < min(found.along, found.independent)
    assert found.weight == pytest.approx(1.0, abs=1e-3)


def test_with_the_lectures_variance_the_path_form_varies_by_twice_the_excess(generator):
    """The excess over −ln q(x_0) is what β_t costs beside the exact variance, and falls as T grows.

    3 × 400 paths know a variance to ± 4.1 %.
    """
    last = torch.inf
    for num_timesteps in (40, 250):
        x_0, terms = paths_of(exact_denoiser(num_timesteps, FixedLarge()), 3, 400, generator)
        zero = torch.zeros((), dtype=torch.float64)
        entropy = -Gaussian(zero + 0.3, (zero + 0.5**2).log()).log_prob(x_0)
        excess = float(terms.log_ratios.sum(dim=2).mean() - entropy.mean())
        variance = variances(terms).path
        assert variance == pytest.approx(2 * excess, rel=0.3)
        assert variance < last / 3
        last = variance


def test_the_best_combination_and_the_sum_over_independent_draws():
    generator = torch.Generator().manual_seed(1)
    ratios, divergences = torch.randn(2, 1, 500, 7, dtype=torch.float64, generator=generator)
    ratios = ratios + 0.5 * divergences
    found = variances(PathTerms(ratios, divergences, divergences))
    path, along = ratios.sum(dim=2)[0], divergences.sum(dim=2)[0]
    covariance = np.cov(path, along)
    weight = (covariance[1, 1] - covariance[0, 1]) / (
        covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    )
    assert found.weight == pytest.approx(weight, rel=1e-9)
    assert found.combined == pytest.approx(float((weight * path + (1 - weight) * along).var()), rel=1e-9)
    assert found.independent == pytest.approx(np.trace(np.cov(divergences[0].T)), rel=1e-9)
    assert found.path == pytest.approx(covariance[0, 0], rel=1e-9)


def test_the_variance_of_a_plan(generator):
    """Against 40,000 rounds drawn: ± 1 %, and the table's own 2,000 draws make ± 3 % of the noise's share."""
    num_timesteps = 9
    means = 20 / torch.arange(1, num_timesteps + 1, dtype=torch.float64)
    plan = Plan(
        ((1, 1), (1, 1), (2, 4), (5, 9)), 1 + torch.arange(num_timesteps + 1, dtype=torch.float64).flip(0)
    )

    def noise(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    found = round_variance(means * (1 + 0.2 * noise(2, 2000, num_timesteps)), plan)
    slots = torch.arange(4).repeat(40_000)
    t, weights = plan.draw(slots, torch.rand(len(slots), dtype=torch.float64, generator=generator))
    totals = (weights * means[t - 1] * (1 + 0.2 * noise(len(slots)))).reshape(-1, 4).sum(dim=1)
    assert_close(found, totals.var().expand(2), rtol=0.05, atol=0)


def test_few_draws_leave_the_variance_of_a_plan_unbiased(generator):
    """(Σ_t E f)² is estimated without bias: 4,000 images of 2 draws, one step in a slot, variance 4."""
    terms = 10 + 2 * torch.randn(4000, 2, 1, dtype=torch.float64, generator=generator)
    found = round_variance(terms, Plan(((1, 1),), torch.ones(2, dtype=torch.float64)))
    assert float(found.mean()) == pytest.approx(4.0, abs=4 * float(found.std()) / 4000**0.5)
