import functools
import inspect
import math

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from nelbo import NoiseSchedule

TABLES = ["betas", "alphas", "alphas_bar", "one_minus_alphas_bar", "posterior_variances", "snr", "clock"]


def unchecked(method):
    """The method without the type checks of the tests, as users have it."""
    return functools.partial(inspect.unwrap(method.__func__), method.__self__)


def test_the_goldens_of_the_lecture():
    """Lecture: noise schedule, 1e-4 … linear … .02."""
    s = NoiseSchedule.linear()
    assert s.num_timesteps == 1000
    assert float(s.betas[1]) == pytest.approx(1e-4, rel=1e-12)
    assert float(s.betas[1000]) == pytest.approx(0.02, rel=1e-12)
    assert float(s.alphas_bar[1000]) == pytest.approx(4.03583e-5, rel=1e-5)
    assert float(s.posterior_variances[2]) == pytest.approx(5.4532e-5, rel=1e-4)
    assert float(s.posterior_variances[1]) == 0


def test_tables_have_a_sentinel_and_index_1_is_t_1(schedule):
    for name in TABLES:
        table = getattr(schedule, name)
        assert table.shape == (schedule.num_timesteps + 1,)
        assert table.dtype == (torch.int64 if name == "clock" else torch.float64)
    assert schedule.betas[0] == 0
    assert schedule.alphas_bar[0] == 1


def test_no_zero_and_no_infinity_is_negative(schedule):
    assert schedule.snr[0] == torch.inf
    for name in TABLES[:-1]:
        assert not torch.signbit(getattr(schedule, name)).any(), name


def test_tables_are_what_they_say(schedule):
    """Lecture: α_t; ᾱ_t; β̃_t. ᾱ is a product, not the slide's sum."""
    ab = torch.cumprod(schedule.alphas, 0)
    assert_close(schedule.alphas, 1 - schedule.betas, rtol=1e-12, atol=0)
    assert_close(schedule.alphas_bar, ab, rtol=1e-12, atol=0)
    assert_close(schedule.one_minus_alphas_bar, 1 - ab, rtol=1e-11, atol=1e-16)
    assert_close(schedule.snr[1:], (ab / (1 - ab))[1:], rtol=1e-9, atol=0)
    ratio = schedule.betas[1:] * (1 - ab[:-1]) / (1 - ab[1:])
    assert_close(schedule.posterior_variances[1:], ratio, rtol=1e-9, atol=1e-16)


def test_one_minus_alphas_bar_keeps_its_digits():
    tiny = NoiseSchedule.from_betas([1e-14, 1e-14])
    assert_close(
        tiny.one_minus_alphas_bar, torch.tensor([0, 1e-14, 2e-14], dtype=torch.float64), rtol=1e-12, atol=0
    )


def test_beta_tilde_of_a_longer_step_is_that_of_the_respaced_chain(schedule):
    """Lecture: β̃_t."""
    last = schedule.num_timesteps
    short = schedule.respaced([2, last])
    between = schedule.posterior_variance(torch.tensor(2), torch.tensor([last]))
    ab = schedule.alphas_bar
    expected = (1 - ab[last] / ab[2]) * (1 - ab[2]) / (1 - ab[last])
    assert_close(between, expected[None], rtol=1e-9, atol=0)
    assert_close(short.posterior_variances[2:], between, rtol=1e-14, atol=0)


@pytest.mark.parametrize(("num_timesteps", "s"), [(50, 0.008), (4000, 0.008), (4000, 0.0)])
def test_betas_of_the_cosine_keep_their_digits(num_timesteps, s):
    """√(f(t)/f(t−1)) = cos d − sin d tan a_{t−1}, d = a_t − a_{t−1}: 1 less that, written so, cancels nowhere."""
    d = math.pi / 2 / (1 + s) / num_timesteps
    a = (np.arange(num_timesteps) / num_timesteps + s) / (1 + s) * math.pi / 2
    gap = 2 * math.sin(d / 2) ** 2 + math.sin(d) * np.tan(a)
    expected = torch.from_numpy(np.minimum(gap * (2 - gap), 0.999))
    assert_close(NoiseSchedule.cosine(num_timesteps, s).betas[1:], expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (NoiseSchedule.linear(), {"beta_schedule": "linear"}),
        (NoiseSchedule.cosine(), {"beta_schedule": "squaredcos_cap_v2"}),
    ],
)
def test_diffusers_has_the_same_tables_to_its_float32(ours, theirs):
    oracle = DDPMScheduler(num_train_timesteps=1000, **theirs)
    assert_close(ours.betas[1:].float(), oracle.betas, rtol=2e-4, atol=1e-7)
    assert_close(ours.alphas_bar[1:].float(), oracle.alphas_cumprod, rtol=2e-4, atol=1e-6)


@given(st.integers(21, 4000))
def test_default_endpoints_are_scaled_so_that_the_end_is_noise_for_any_T(num_timesteps):
    s = NoiseSchedule.linear(num_timesteps)
    assert float(s.betas[1]) == pytest.approx(0.1 / num_timesteps)
    assert float(s.betas[-1]) == pytest.approx(20 / num_timesteps)
    assert float(s.alphas_bar[-1]) < 4.4e-5


def test_endpoints_that_the_caller_gives_are_kept():
    s = NoiseSchedule.linear(10, 1e-4, 0.02)
    assert_close(s.betas[1:], torch.linspace(1e-4, 0.02, 10, dtype=torch.float64))
    assert float(NoiseSchedule.linear(500, beta_start=1e-4).betas[-1]) == pytest.approx(0.04)
    assert unchecked(NoiseSchedule.linear)(np.int64(1), 0.3, 0.3).betas[1:].tolist() == [0.3]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NoiseSchedule.from_betas([0.1, 1.0]), "β_2 = 1 is outside"),
        (lambda: NoiseSchedule.from_betas([0.0, 0.5]), "β_1 = 0 is outside"),
        (lambda: NoiseSchedule.from_betas([0.1, float("nan")]), "β_2 = nan is outside"),
        (lambda: NoiseSchedule.linear(10), r"β_\d+ = .* is outside \(0, 1\)"),
        (lambda: NoiseSchedule.linear(0), "num_timesteps is 0"),
        (lambda: NoiseSchedule.linear(1), "one step has one β, and the endpoints are 0.1 and 20"),
        (lambda: NoiseSchedule.linear(1, 0.1), "use from_betas"),
        (
            lambda: unchecked(NoiseSchedule.linear)(1000.0),
            "num_timesteps is 1000.0, a float; give a whole number",
        ),
        (lambda: unchecked(NoiseSchedule.cosine)(True), "num_timesteps is True, a bool"),
        (lambda: unchecked(NoiseSchedule.linear().respaced)([1.9, 2.9]), "a time step is 1.9, a float"),
        (lambda: NoiseSchedule.cosine(-3), "num_timesteps is -3"),
        (lambda: NoiseSchedule.from_betas([]), "give T ≥ 1 values"),
        (lambda: NoiseSchedule.linear().respaced([0, 5]), "must increase strictly within 1..1000"),
        (lambda: NoiseSchedule.linear().respaced([5, 5]), "must increase strictly"),
        (lambda: NoiseSchedule.linear().respaced([5, 1001]), "must increase strictly"),
        (lambda: NoiseSchedule.linear().respaced([]), "timesteps is empty"),
    ],
)
def test_what_is_refused_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_respacing_keeps_the_marginals_and_the_clock():
    s = NoiseSchedule.linear()
    kept = [1, 4, 250, 1000]
    short = s.respaced(kept)
    assert_close(short.alphas_bar[1:], s.alphas_bar[kept], rtol=1e-12, atol=0)
    assert short.clock[1:].tolist() == [0, 3, 249, 999]
    again = short.respaced([2, 4])
    assert again.clock[1:].tolist() == [3, 999]
    assert_close(again.alphas_bar[1:], s.alphas_bar[[4, 1000]], rtol=1e-12, atol=0)


def test_respacing_keeps_the_digits_of_alpha_where_beta_is_next_to_1():
    s = NoiseSchedule.cosine()
    short = s.respaced([1, 1000])
    assert short.betas[2] > 1 - 1e-8
    assert_close(short.alphas_bar, s.alphas_bar[[0, 1, 1000]], rtol=1e-14, atol=0)
    assert_close(short.alphas[2], s.alphas_bar[1000] / s.alphas_bar[1], rtol=1e-12, atol=0)
    again = short.respaced([2])
    assert_close(again.alphas_bar, s.alphas_bar[[0, 1000]], rtol=1e-14, atol=0)


def test_respacing_to_every_step_changes_nothing(schedule):
    same = schedule.respaced(range(1, schedule.num_timesteps + 1))
    for name in TABLES:
        assert_close(getattr(same, name), getattr(schedule, name), rtol=1e-10, atol=1e-15)
