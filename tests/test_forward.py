import inspect

import pytest
import torch
from torch.testing import assert_close

from nelbo import ForwardProcess, NoiseSchedule


@pytest.fixture
def x():
    return [torch.randn(3, 2, 4, 4, dtype=torch.float64) for _ in range(3)]


def test_bayes_theorem_holds_pointwise(schedule, x):
    """Lecture: Bayes. q(x_{t−1}|x_t, x_0) q(x_t|x_0) = q(x_t|x_{t−1}) q(x_{t−1}|x_0), at any three points."""
    forward = ForwardProcess(schedule)
    x_0, x_prev, x_t = x
    for t in {2, 3, schedule.num_timesteps // 2 + 1, schedule.num_timesteps} - {1}:
        x_t = forward.q_transition(x_prev, t).sample()
        left = forward.q_posterior(x_0, x_t, t).log_prob(x_prev) + forward.q_marginal(x_0, t).log_prob(x_t)
        right = forward.q_transition(x_prev, t).log_prob(x_t) + forward.q_marginal(x_0, t - 1).log_prob(
            x_prev
        )
        assert_close(left, right, rtol=1e-9, atol=1e-9)


def test_composed_transitions_are_the_marginal(schedule, x):
    """Lecture: forward step; closed form, in which ᾱ is a product and not the slide's sum."""
    forward = ForwardProcess(schedule)
    mean, variance = x[0], torch.zeros(()).double()
    for t in range(1, schedule.num_timesteps + 1):
        step = forward.q_transition(mean, t)
        gain = 1 - forward.q_transition(mean, t).log_variance.exp()
        mean, variance = step.mean, gain * variance + step.log_variance.exp()
        marginal = forward.q_marginal(x[0], t)
        assert_close(marginal.mean, mean, rtol=1e-9, atol=1e-12)
        assert_close(marginal.log_variance.exp(), variance, rtol=1e-9, atol=0)


def test_var_of_x_1_given_x_0_is_beta_1(schedule, x):
    """Lecture: forward step. The slide's var(x_1) = β_1 holds given x_0."""
    forward = ForwardProcess(schedule)
    for q in (forward.q_transition(x[0], 1), forward.q_marginal(x[0], 1)):
        assert_close(q.log_variance.exp().squeeze(), schedule.betas[1], rtol=1e-9, atol=0)


def test_the_draw_that_noise_stands_for(schedule, x):
    """Lecture: x_t as a function of x_0 and ε. C_1 = √ᾱ_t and C_2 = √(1−ᾱ_t); for x_1, √(1−β_1) and √β_1."""
    forward, (x_0, eps, _) = ForwardProcess(schedule), x
    ab, t = torch.cumprod(1 - schedule.betas, 0), torch.tensor([1, 3, schedule.num_timesteps])
    signal, noise = ab[t].sqrt().reshape(3, 1, 1, 1), (1 - ab[t]).sqrt().reshape(3, 1, 1, 1)
    x_t = forward.q_marginal(x_0, t).reparameterize(eps)
    assert_close(x_t, signal * x_0 + noise * eps, rtol=1e-9, atol=1e-9)
    x_1 = forward.q_transition(x_0, 1).reparameterize(eps)
    beta_1 = schedule.betas[1]
    assert_close(x_1, (1 - beta_1).sqrt() * x_0 + beta_1.sqrt() * eps, rtol=1e-9, atol=1e-9)


def test_posterior_coefficients(schedule, x):
    """Lecture: Bayes. c_t, γ_t and β̃_t, which the slide runs together."""
    forward = ForwardProcess(schedule)
    zero, one = torch.zeros(1, 1).double(), torch.ones(1, 1).double()
    a, ab, b = schedule.alphas, schedule.alphas_bar, schedule.betas
    for t in range(2, min(schedule.num_timesteps, 40) + 1):
        c = forward.q_posterior(one, zero, t).mean.squeeze()
        gamma = forward.q_posterior(zero, one, t).mean.squeeze()
        assert_close(c, ab[t - 1].sqrt() * b[t] / (1 - ab[t]), rtol=1e-9, atol=0)
        assert_close(gamma, a[t].sqrt() * (1 - ab[t - 1]) / (1 - ab[t]), rtol=1e-9, atol=0)
        variance = forward.q_posterior(one, zero, t).log_variance.exp().squeeze()
        assert_close(variance, schedule.posterior_variances[t], rtol=1e-9, atol=0)


def test_posterior_at_t_1_is_a_dirac_at_x_0(schedule, x):
    posterior = ForwardProcess(schedule).q_posterior(x[0], x[1], 1)
    assert_close(posterior.mean, x[0], rtol=1e-10, atol=1e-12)
    assert torch.isneginf(posterior.log_variance)
    assert_close(posterior.sample(), x[0], rtol=1e-10, atol=1e-12)


def test_int_and_tensor_steps_agree(schedule, x):
    forward = ForwardProcess(schedule)
    t = torch.tensor([1, 3, 2])
    for name, args in {"q_transition": x[:1], "q_marginal": x[:1], "q_posterior": x[:2]}.items():
        many = getattr(forward, name)(*args, t)
        for i in range(3):
            one = getattr(forward, name)(*(a[i : i + 1] for a in args), int(t[i]))
            assert_close(many.mean[i : i + 1], one.mean)
            assert_close(many.log_variance[i : i + 1], one.log_variance)


def test_the_log_of_a_marginal_variance_next_to_1_keeps_its_digits():
    """ln(1 − ᾱ) = −ᾱ − ᾱ²/2 for the cosine's last ᾱ, 2e-9."""
    schedule = NoiseSchedule.cosine()
    ab = float(schedule.alphas_bar[-1])
    assert ab < 3e-9
    q = ForwardProcess(schedule).q_marginal(torch.zeros(1, 1).double(), 1000)
    assert float(q.log_variance) == pytest.approx(-ab - ab**2 / 2, rel=1e-12, abs=0)


def test_levels_for_images_are_refused():
    forward, levels = ForwardProcess(NoiseSchedule.linear()), torch.zeros(1, 1, dtype=torch.uint8)
    for method in (ForwardProcess.q_transition, ForwardProcess.q_marginal):
        with pytest.raises(ValueError, match=r"the images are torch\.uint8; give numbers from −1 to 1"):
            inspect.unwrap(method)(
                forward, levels, 1
            )  # (what users have: without the type checks of the tests)


def test_a_step_of_zero_is_refused():
    forward = ForwardProcess(NoiseSchedule.linear())
    for call in (forward.q_transition, forward.q_marginal):
        with pytest.raises(ValueError, match=r"t = 0 is outside 1\.\.1000"):
            call(torch.zeros(1, 1), 0)
    with pytest.raises(ValueError, match="t = 1001"):
        forward.q_posterior(torch.zeros(1, 1), torch.zeros(1, 1), torch.tensor([1001]))
