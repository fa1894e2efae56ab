import pytest
import torch
from torch.testing import assert_close

from nelbo import FixedLarge, FixedSmall, LearnedRange, NoiseSchedule


def test_fixed_variances_and_the_first_step(schedule):
    x = torch.zeros(1, 1, dtype=torch.float64)
    for t in range(1, min(schedule.num_timesteps, 30) + 1):
        assert_close(FixedLarge().log_variance(schedule, t, x).exp(), schedule.betas[t])
        small = FixedSmall().log_variance(schedule, t, x).exp()
        assert_close(small, schedule.posterior_variances[max(t, 2)])  # σ_1² := β̃_2


def test_a_single_step_has_only_beta_1():
    one = NoiseSchedule.from_betas([0.3])
    x = torch.zeros(1, 1, dtype=torch.float64)
    assert_close(FixedSmall().log_variance(one, 1, x).exp(), torch.tensor(0.3, dtype=torch.float64))


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
