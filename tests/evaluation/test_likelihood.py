"""The stratified estimator: unbiased, with an error bar that means what it says."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from exact import ExactVariance, GaussianData
from nelbo import X0, FixedLarge, NoiseSchedule, ReverseProcess, variational_bound
from nelbo.data import levels_to_unit
from nelbo.evaluation.likelihood import estimate_likelihood, geometric_strata

_T = 20
_SCHEDULE = NoiseSchedule.linear(_T, 1e-3, 0.6)


def pictures(num, shape=(3, 4, 4), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num, *shape), dtype=np.uint8)


@pytest.fixture
def reverse(tiny_network):
    return ReverseProcess(tiny_network(), _SCHEDULE).eval()


def gaussian_model(schedule=_SCHEDULE):
    """The exact denoiser and variance of N(0.3, 0.5²) data: the bound that no model can beat."""
    return ReverseProcess(GaussianData(schedule).network, schedule, X0(), ExactVariance(), clip=False).eval()


def gaussian_pictures(num, shape, seed):
    x = 0.3 + 0.5 * np.random.default_rng(seed).standard_normal((num, *shape))
    return np.clip(np.round((x + 1) * 127.5), 0, 255).astype(np.uint8)


@given(num_timesteps=st.integers(1, 2000), num_strata=st.integers(1, 2100))
def test_the_strata_cover_2_to_T_exactly_once(num_timesteps, num_strata):
    strata = geometric_strata(num_timesteps, num_strata)
    assert [t for first, last in strata for t in range(first, last + 1)] == list(range(2, num_timesteps + 1))
    assert len(strata) == min(num_strata, num_timesteps - 1)


def test_strata_grow_with_t():
    lengths = [last - first + 1 for first, last in geometric_strata(1000, 24)]
    assert lengths == sorted(lengths)
    assert lengths[0] == 1
    assert 150 < lengths[-1] < 300  # 1000 (1 − 500^(−1/24)) = 228
    assert geometric_strata(1, 5) == []
    assert geometric_strata(2, 5) == [(2, 2)]
    assert geometric_strata(4, 3) == [(2, 2), (3, 3), (4, 4)]


@pytest.mark.parametrize(("evaluations", "precision"), [(2, 0.08), (5, 0.03), (_T, 0.01)])
def test_it_is_unbiased(reverse, evaluations, precision):
    """1,200 estimates of one image and 1,200 draws of its whole bound: each part differs by less than 4 σ."""
    images = np.repeat(pictures(1), 1200, axis=0)
    estimate = estimate_likelihood(reverse, images, evaluations_per_image=evaluations, batch_size=1200)
    bound = variational_bound(
        reverse,
        levels_to_unit(torch.from_numpy(images), torch.float64),
        generator=torch.Generator().manual_seed(1),
    )
    bits = 1 / (images[0].size * math.log(2))
    whole, l_0 = bound.bits_per_dim, bits * bound.reconstruction
    error = math.hypot(estimate.standard_error, float(whole.std()) / math.sqrt(1200))
    assert abs(estimate.bits_per_dim - float(whole.mean())) < 4 * error
    assert error < precision * estimate.transitions  # else the test would see nothing
    steps = bits * bound.transitions.sum(dim=1).mean()
    assert abs(estimate.transitions - float(steps)) < 4 * error
    error_0 = math.hypot(estimate.strata[0].standard_error, float(l_0.std()) / math.sqrt(1200))
    assert abs(estimate.reconstruction - float(l_0.mean())) < 4 * error_0
    assert error_0 < 0.02 * estimate.reconstruction
    assert estimate.prior == pytest.approx(bits * float(bound.prior[0]), rel=1e-9)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_batch_size_draws_nothing_else(reverse, batch_size):
    images = pictures(7)
    whole = estimate_likelihood(reverse, images, evaluations_per_image=6, batch_size=7)
    parts = estimate_likelihood(reverse, images, evaluations_per_image=6, batch_size=batch_size)
    np.testing.assert_allclose(parts.per_image, whole.per_image, rtol=1e-9)
    np.testing.assert_allclose(parts.standard_error, whole.standard_error, rtol=1e-9)


def test_every_image_and_every_seed_draws_its_own(reverse):
    same = np.repeat(pictures(1), 5, axis=0)
    estimate = estimate_likelihood(reverse, same, evaluations_per_image=4)
    assert len(set(estimate.per_image)) == 5
    again = estimate_likelihood(reverse, same, evaluations_per_image=4)
    assert again == estimate
    other = estimate_likelihood(reverse, same, evaluations_per_image=4, seed=1)
    assert not set(other.per_image) & set(estimate.per_image)


def test_every_step_of_an_image_has_noise_of_its_own():
    noises = []

    def watching(x_t, clock):
        t = int(clock[0]) + 1
        signal, noise = _SCHEDULE.alphas_bar[t].sqrt(), (1 - _SCHEDULE.alphas_bar[t]).sqrt()
        noises.append(((x_t.double() - signal * x_0) / noise).flatten())
        return torch.zeros_like(x_t)

    images = pictures(1, (3, 16, 16))
    x_0 = levels_to_unit(torch.from_numpy(images), torch.float64)
    estimate_likelihood(ReverseProcess(watching, _SCHEDULE), images, evaluations_per_image=_T)
    drawn = torch.stack(noises)
    # 768 values each: the standard error of a correlation is 0.036, of a standard deviation 0.026.
    off_diagonal = torch.corrcoef(drawn) - torch.eye(_T, dtype=torch.float64)
    assert off_diagonal.abs().max() < 5 * 0.036
    assert (drawn.std(dim=1) - 1).abs().max() < 5 * 0.026


def test_the_parts_add_up_and_the_error_is_numpys(reverse):
    result = estimate_likelihood(reverse, pictures(9), evaluations_per_image=6)
    values = np.array(result.per_image)
    assert result.num_images == len(values) == 9
    assert result.bits_per_dim == pytest.approx(values.mean(), rel=1e-12)
    assert result.standard_error == pytest.approx(values.std(ddof=1) / 3, rel=1e-12)
    total = result.prior + result.transitions + result.reconstruction
    assert total == pytest.approx(result.bits_per_dim, rel=1e-12)
    by_step = sum(s.bits_per_dim * (s.last - s.first + 1) for s in result.strata)
    assert by_step + result.prior == pytest.approx(result.bits_per_dim, rel=1e-12)
    assert result.strata[0].bits_per_dim == result.reconstruction
    assert (result.strata[0].first, result.strata[0].last) == (1, 1)
    assert [(s.first, s.last) for s in result.strata[1:]] == geometric_strata(_T, 5)


@pytest.mark.parametrize(("evaluations", "calls"), [(2, 2), (7, 7), (_T, _T), (10 * _T, _T)])
def test_network_evaluations_are_counted_as_they_happen(tiny_network, evaluations, calls):
    network, seen, reported = tiny_network().float(), [], []

    def counting(x, clock):
        seen.extend((clock + 1).tolist())
        return network(x, clock)

    result = estimate_likelihood(
        ReverseProcess(counting, _SCHEDULE),
        pictures(5),
        evaluations_per_image=evaluations,
        batch_size=2,
        on_batch=reported.append,
    )
    assert result.network_evaluations == len(seen) == sum(reported) == 5 * calls
    assert seen.count(1) == 5
    if calls == _T:
        assert sorted(seen) == sorted(list(range(1, _T + 1)) * 5)


def test_steps_are_uniform_within_a_stratum(tiny_network):
    network, seen = tiny_network().float(), []

    def watching(x, clock):
        seen.extend((clock + 1).tolist())
        return network(x, clock)

    estimate_likelihood(
        ReverseProcess(watching, _SCHEDULE),
        pictures(1900, (3, 1, 1)),
        evaluations_per_image=2,
        batch_size=1900,
    )
    counts = np.bincount(seen, minlength=_T + 1)[2:]
    assert counts.sum() == 1900
    # χ² with 18 degrees of freedom: 42.3 is its 0.999 quantile.
    assert ((counts - 100) ** 2 / 100).sum() < 42.3


def test_the_error_bar_covers_the_population():
    """Gaussian data, its exact model: ±1.96 standard errors hold the population's bound in about 95 % of 200.

    All repetitions are one call, as every image draws by its own index; that the error of a set is
    numpy's of its ``per_image`` is a test of its own.
    """
    reverse, shape, repetitions, num = gaussian_model(), (1, 2, 2), 200, 24
    truth = estimate_likelihood(
        reverse, gaussian_pictures(40_000, shape, seed=1), evaluations_per_image=_T, batch_size=40_000, seed=1
    )
    drawn = estimate_likelihood(
        reverse,
        gaussian_pictures(repetitions * num, shape, seed=0),
        evaluations_per_image=5,
        batch_size=repetitions * num,
    )
    sets = np.array(drawn.per_image).reshape(repetitions, num)
    means, errors = sets.mean(axis=1), sets.std(axis=1, ddof=1) / math.sqrt(num)
    assert truth.standard_error < errors.mean() / 20  # the truth is known much better than any of them
    covered = (abs(means - truth.bits_per_dim) < 1.96 * errors).mean()
    # Student's t with 23 degrees of freedom covers 93.8 % at ±1.96; Binomial(200, 0.938) has σ = 1.7 %.
    assert 0.89 <= covered <= 0.99


def test_the_bound_of_the_exact_model_is_near_the_entropy():
    """h(N(0.3, 0.5²)) − log₂(2/255) = 7.04 bits/dim is what any model must pay; the exact one pays little more."""
    reverse = gaussian_model(NoiseSchedule.linear(200))
    result = estimate_likelihood(
        reverse, gaussian_pictures(400, (1, 4, 4), 0), evaluations_per_image=60, batch_size=400
    )
    entropy = 0.5 * math.log2(2 * math.pi * math.e * 0.25) - math.log2(2 / 255)
    # Values beyond ±1 are clipped (9 % of them), which costs the data some entropy.
    assert entropy - 0.6 < result.bits_per_dim < entropy + 0.1
    wrong = estimate_likelihood(
        ReverseProcess(GaussianData(reverse.schedule, m=-0.3).network, reverse.schedule, X0(), FixedLarge()),
        gaussian_pictures(50, (1, 4, 4), 0),
    )
    assert wrong.bits_per_dim > result.bits_per_dim + 0.05


def test_one_step_is_enough_for_a_bound(tiny_network):
    reverse = ReverseProcess(tiny_network(), NoiseSchedule.from_betas([0.5]))
    result = estimate_likelihood(reverse, pictures(4), evaluations_per_image=1)
    assert result.transitions == 0
    assert result.network_evaluations == 4
    assert result.prior + result.reconstruction == pytest.approx(result.bits_per_dim, rel=1e-12)
    assert len(result.strata) == 1
    two = ReverseProcess(tiny_network(), NoiseSchedule.from_betas([0.1, 0.5]))
    assert estimate_likelihood(two, pictures(4)).network_evaluations == 8


def test_a_single_image_has_no_error_bar(reverse):
    result = estimate_likelihood(reverse, pictures(1), evaluations_per_image=3)
    assert math.isnan(result.standard_error)
    assert all(math.isnan(s.standard_error) for s in result.strata)
    assert result.bits_per_dim == result.per_image[0] > 0


def test_a_float32_network_is_scored_in_float32(tiny_network):
    single = ReverseProcess(tiny_network().float(), _SCHEDULE)
    double = ReverseProcess(replace_weights(tiny_network(), single.network), _SCHEDULE)
    ours = estimate_likelihood(single, pictures(4))
    torch.testing.assert_close(
        ours.bits_per_dim, estimate_likelihood(double, pictures(4)).bits_per_dim, rtol=1e-4, atol=0
    )


def replace_weights(network, source):
    network.load_state_dict({name: value.double() for name, value in source.state_dict().items()})
    return network


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": pictures(0)}, "no image to evaluate on; give --data"),
        ({"evaluations_per_image": 1}, "is 1; give at least 2"),
        ({"evaluations_per_image": 0}, "is 0; give at least 2"),
        ({"batch_size": 0}, "batch size is 0; give at least 1"),
    ],
)
def test_what_cannot_be_estimated_is_refused(reverse, arguments, message):
    with pytest.raises(ValueError, match=message):
        estimate_likelihood(reverse, **{"images": pictures(2), **arguments})
