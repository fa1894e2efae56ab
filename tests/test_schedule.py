import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from nelbo import NoiseSchedule

TABLES = ["betas", "alphas", "alphas_bar", "one_minus_alphas_bar", "posterior_variances", "snr", "clock"]


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


def test_tables_are_what_they_say(schedule):
    ab = torch.cumprod(schedule.alphas, 0)
    assert_close(schedule.alphas, 1 - schedule.betas, rtol=1e-14, atol=0)
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


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NoiseSchedule.from_betas([0.1, 1.0]), "β_2 = 1 is outside"),
        (lambda: NoiseSchedule.from_betas([0.0, 0.5]), "β_1 = 0 is outside"),
        (lambda: NoiseSchedule.from_betas([0.1, float("nan")]), "β_2 = nan is outside"),
        (lambda: NoiseSchedule.linear(10), r"β_\d+ = .* is outside \(0, 1\)"),
        (lambda: NoiseSchedule.linear(0), "num_timesteps is 0"),
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


def test_respacing_to_every_step_changes_nothing(schedule):
    same = schedule.respaced(range(1, schedule.num_timesteps + 1))
    for name in TABLES:
        assert_close(getattr(same, name), getattr(schedule, name), rtol=1e-10, atol=1e-15)
