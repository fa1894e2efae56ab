import pytest
import torch
from diffusers import DDPMScheduler
from torch.testing import assert_close

from nelbo import X0, Epsilon, ForwardProcess, NoiseSchedule, V

ALL = [Epsilon(), X0(), V()]


@pytest.mark.parametrize("parameterization", ALL, ids=lambda p: type(p).__name__)
def test_the_target_stands_for_the_data_and_the_noise_that_made_it(parameterization, schedule):
    """Lecture: x_0 as a function of x_t and ε."""
    x_0, eps = torch.randn(2, 4, 3, 2, 2, dtype=torch.float64)
    t = torch.tensor([1, 2, 3, schedule.num_timesteps])
    x_t = ForwardProcess(schedule).q_marginal(x_0, t).reparameterize(eps)
    target = parameterization.target(schedule, x_0, eps, t)
    assert_close(parameterization.x_0(schedule, target, x_t, t), x_0, rtol=1e-8, atol=1e-9)
    assert_close(parameterization.eps(schedule, target, x_t, t), eps, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("parameterization", ALL, ids=lambda p: type(p).__name__)
def test_x_0_and_eps_of_any_output_agree(parameterization, schedule):
    output, x_t = torch.randn(2, 4, 3, 2, 2, dtype=torch.float64)
    t = torch.tensor([1, 2, 3, schedule.num_timesteps])
    x_0, eps = (getattr(parameterization, name)(schedule, output, x_t, t) for name in ("x_0", "eps"))
    again = ForwardProcess(schedule).q_marginal(x_0, t).reparameterize(eps)
    assert_close(again, x_t, rtol=1e-8, atol=1e-9)


def test_diffusers_has_the_same_velocity():
    schedule, oracle = NoiseSchedule.linear(), DDPMScheduler(beta_schedule="linear")
    x_0, eps = torch.randn(2, 3, 1, 4, 4)
    t = torch.tensor([1, 500, 1000])
    theirs = oracle.get_velocity(x_0, eps, t - 1)
    assert_close(V().target(schedule, x_0, eps, t), theirs, rtol=1e-4, atol=1e-5)
