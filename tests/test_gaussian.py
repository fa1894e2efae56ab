import math

import pytest
import torch
from scipy import stats
from torch.distributions import Independent, Normal
from torch.distributions import kl_divergence as torch_kl
from torch.testing import assert_close

from nelbo import DiscretizedGaussian, Gaussian, kl_divergence

LEVELS = torch.arange(256, dtype=torch.float64) / 127.5 - 1


def f64(value):
    return torch.tensor(value, dtype=torch.float64)


def _random_pair():
    g = Gaussian(torch.randn(5, 3, 2, dtype=torch.float64), torch.randn(5, 3, 2, dtype=torch.float64))
    return g, Independent(Normal(g.mean, (0.5 * g.log_variance).exp()), 2)


def test_torch_distributions_agrees():
    (p, p_oracle), (q, q_oracle) = _random_pair(), _random_pair()
    x = torch.randn(5, 3, 2, dtype=torch.float64)
    assert_close(p.log_prob(x), p_oracle.log_prob(x), rtol=1e-12, atol=0)
    assert_close(p.entropy(), p_oracle.entropy(), rtol=1e-12, atol=0)
    assert_close(kl_divergence(q, p), torch_kl(q_oracle, p_oracle), rtol=1e-12, atol=0)


def test_broadcast_variance_counts_every_dimension():
    mean = torch.zeros(2, 3, 4, dtype=torch.float64)
    narrow = Gaussian(mean, torch.tensor(0.0, dtype=torch.float64))
    assert_close(narrow.entropy(), f64([12 * 0.5 * math.log(2 * math.pi * math.e)] * 2))
    assert narrow.log_prob(mean).shape == (2,)
    assert_close(kl_divergence(narrow, Gaussian(mean, f64(1.0))).unique().numel(), 1)
    assert kl_divergence(Gaussian(mean[:1], mean[:1, :1, :1]), narrow).shape == (2,)


def test_kl_of_nearly_equal_variances_keeps_its_digits():
    """For σ_q²/σ_p² = 1 + δ, KL = δ²/4 to leading order: 2.5e-17 at δ = 1e-8, lost in 1 − 1 otherwise."""
    zero = torch.zeros(1, 1, dtype=torch.float64)
    delta = torch.tensor(1e-8, dtype=torch.float64)
    kl = kl_divergence(Gaussian(zero, delta), Gaussian(zero, zero))
    assert_close(kl, f64([0.25e-16]), rtol=1e-6, atol=0)


def test_a_dirac_can_be_drawn(generator):
    mean = torch.randn(2, 3)
    assert torch.equal(Gaussian(mean, torch.tensor(-math.inf)).sample(generator=generator), mean)


def test_sample_moments(generator):
    g = Gaussian(f64([[1.0, -2.0]]).expand(200_000, 2), f64([0.0, 1.0]))
    draws = g.sample(generator=generator)
    assert_close(draws.mean(0), f64([1.0, -2.0]), atol=0.02, rtol=0)
    assert_close(draws.var(0), f64([1.0, math.e]), rtol=0.02, atol=0)


@pytest.mark.parametrize("std", [1e-3, 0.01, 0.3, 3.0, 100.0])
@pytest.mark.parametrize("mean", [-1.7, -1.0, 0.123, 0.999, 5.0])
def test_the_256_masses_sum_to_one(mean, std):
    """Lecture: L_0, reconstruction, simple decoder."""
    mean, log_variance = f64(mean), f64(2 * math.log(std))
    masses = DiscretizedGaussian(mean.expand(256, 1), log_variance).log_prob(LEVELS[:, None]).exp()
    assert_close(masses.sum(), f64(1.0), rtol=1e-10, atol=0)


@pytest.mark.parametrize("std", [0.005, 0.05, 0.5])
def test_each_mass_is_the_difference_of_scipys_cdfs_on_the_side_that_keeps_digits(std):
    mean = 0.2
    upper, lower = (LEVELS.numpy() + 1 / 255 - mean) / std, (LEVELS.numpy() - 1 / 255 - mean) / std
    left = stats.norm.cdf(upper) - stats.norm.cdf(lower)
    right = stats.norm.sf(lower) - stats.norm.sf(upper)
    mass = f64([r if lo > 0 else le for le, r, lo in zip(left, right, lower)])
    mass[0], mass[-1] = stats.norm.cdf(upper[0]), stats.norm.sf(lower[-1])
    ours = DiscretizedGaussian(f64(mean).expand(256, 1), f64(2 * math.log(std)))
    log_masses = ours.log_prob(LEVELS[:, None])
    seen = mass > 1e-290
    assert seen.sum() > 40
    assert_close(log_masses[seen], mass[seen].log(), rtol=1e-9, atol=1e-12)


def test_far_tails_are_finite_and_right_where_a_floor_would_lie():
    """40σ away: ln Φ(−40 + w/2) − …, from scipy's logcdf; a floor of 1e-12 would say −27.6."""
    std = 0.01
    x = LEVELS[100]
    mean = x + 40 * std
    log_near = stats.norm.logcdf(-40 + 1 / 255 / std)
    log_far = stats.norm.logcdf(-40 - 1 / 255 / std)
    expected = log_near + math.log1p(-math.exp(log_far - log_near))
    ours = DiscretizedGaussian(mean.reshape(1, 1), f64(2 * math.log(std)))
    assert float(ours.log_prob(x.reshape(1, 1))) == pytest.approx(expected, rel=1e-11)
    assert expected < -700
    for dtype in (torch.float32, torch.float64):
        wild = DiscretizedGaussian(torch.tensor([[1e4]], dtype=dtype), torch.tensor(-9.0, dtype=dtype))
        assert torch.isfinite(wild.log_prob(torch.tensor([[-1.0]], dtype=dtype)))
        assert torch.isfinite(wild.log_prob(torch.tensor([[1.0]], dtype=dtype)))


def test_the_decoder_has_finite_gradients_everywhere():
    mean = torch.linspace(-3, 3, 256, dtype=torch.float64)[:, None].requires_grad_()
    log_variance = torch.full((256, 1), -9.2, dtype=torch.float64, requires_grad=True)
    for x in (LEVELS[0], LEVELS[128], LEVELS[255]):
        DiscretizedGaussian(mean, log_variance).log_prob(x.expand(256, 1)).sum().backward()
        assert torch.isfinite(mean.grad).all()
        assert torch.isfinite(log_variance.grad).all()
    small_mean = torch.tensor([[0.1]], dtype=torch.float64, requires_grad=True)
    x, log_var = LEVELS[140].reshape(1, 1), torch.tensor([[-6.0]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda m: DiscretizedGaussian(m, log_var).log_prob(x), small_mean)


def test_float32_follows_float64():
    x = LEVELS[None, :]
    for std in (0.01, 0.1, 0.5):
        wide = DiscretizedGaussian(torch.zeros(1, 256).double(), f64(2 * math.log(std)))
        narrow = DiscretizedGaussian(torch.zeros(1, 256), torch.tensor(2 * math.log(std)))
        assert_close(narrow.log_prob(x.float()).double(), wide.log_prob(x), rtol=2e-5, atol=0)


@pytest.mark.parametrize("std", [3e-4, 5e-4, 7e-4])
@pytest.mark.parametrize("off", [0.0, 1e-4])
def test_a_mass_next_to_1_keeps_its_digits(std, off):
    """What is missing from 1: Φ's two tails, 6e-11 … 2e-38."""
    log_mass = DiscretizedGaussian(LEVELS[128].reshape(1, 1) + off, f64(2 * math.log(std))).log_prob(
        LEVELS[128].reshape(1, 1)
    )
    missing = stats.norm.sf((1 / 255 - off) / std) + stats.norm.sf((1 / 255 + off) / std)
    assert missing < 1e-7
    assert float(log_mass) == pytest.approx(math.log1p(-missing), rel=1e-9, abs=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("level", [0, 128, 255])
@pytest.mark.parametrize("distance", [20.0, 300.0, 1e4, 1e7])
def test_the_gradient_is_right_in_the_far_tail(level, distance, dtype):
    """d/dμ ln P → (φ(a) − φ(b))/(σ P): the hazard of the edge next to the mean, z + 1/z − 2/z³ to 1e-6."""
    std, sign = 0.01, -1.0 if level == 255 else 1.0
    x = LEVELS[level].to(dtype)
    mean = (x + sign * (1 / 255 + distance * std)).reshape(1, 1).requires_grad_()
    log_variance = torch.tensor([[2 * math.log(std)]], dtype=dtype, requires_grad=True)
    DiscretizedGaussian(mean, log_variance).log_prob(x.reshape(1, 1)).sum().backward()
    z = ((mean.detach() - sign / 255 - x) / std).abs().double()
    hazard = z + 1 / z - 2 / z**3
    if level == 128:  # the far edge takes its share while e^{−2z/(255σ)} is anything
        width = 2 / 255 / std
        assert math.exp(-width * distance) < 1e-6
    tolerance = {torch.float32: 2e-4, torch.float64: 1e-5}[dtype]
    assert_close(mean.grad.double(), -sign * hazard / std, rtol=tolerance, atol=0)
    assert_close(log_variance.grad.double(), 0.5 * z * hazard, rtol=tolerance, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    """Of what the numbers are in half precision, the float64 answer."""
    mean, x = torch.full((1, 8), 0.25).to(dtype), LEVELS[None, 150:158].to(dtype)
    log_variance = torch.full((1, 8), -4.3).to(dtype)
    for make in (Gaussian, DiscretizedGaussian):
        ours = make(mean, log_variance).log_prob(x)
        assert ours.dtype == torch.float32
        exact = make(mean.double(), log_variance.double()).log_prob(x.double())
        assert_close(ours.double(), exact, rtol=1e-5, atol=0)
    half, other = Gaussian(mean, log_variance), Gaussian(x, log_variance + 1)
    exact = kl_divergence(*(Gaussian(g.mean.double(), g.log_variance.double()) for g in (half, other)))
    assert_close(kl_divergence(half, other).double(), exact, rtol=1e-5, atol=0)
    assert half.entropy().dtype == torch.float32


def test_noise_of_another_shape_is_refused():
    g = Gaussian(torch.zeros(4, 3, 2), torch.zeros(4, 1, 1))
    with pytest.raises(ValueError, match=r"noise has shape \(1, 3, 2\), and the draw \(4, 3, 2\)"):
        g.reparameterize(torch.zeros(1, 3, 2))
    assert g.reparameterize(torch.ones(4, 3, 2)).shape == (4, 3, 2)
