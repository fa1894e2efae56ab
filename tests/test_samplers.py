import dataclasses
import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from torch.testing import assert_close

from exact import ExactVariance, GaussianData
from nelbo import X0, FixedLarge, FixedSmall, LearnedRange, NoiseSchedule, ReverseProcess, sample
from nelbo.dpm_solver import dpm_solver_step
from nelbo.randomness import Purpose
from nelbo.samplers import ancestral_step, chain, ddim_step


def last(states):
    *_, state = states
    return state


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("variance", ["fixed_large", "fixed_small"])
def test_ddpm_step_by_step_as_diffusers_takes_it(variance, clip, tiny_network):
    """Lecture: denoise x_T to x_0, algorithm 2. Every step of 1000, each from the other's state."""
    oracle = DDPMScheduler(beta_schedule="linear", variance_type=variance, clip_sample=clip)
    ours = {"fixed_large": FixedLarge(), "fixed_small": FixedSmall()}[variance]
    reverse = ReverseProcess(tiny_network().float(), NoiseSchedule.linear(), variance=ours, clip=clip)
    x_t = torch.randn(2, 3, 4, 4)
    for t in range(1000, 0, -1):
        prediction = reverse.predict(x_t, t)
        noise = torch.randn(x_t.shape, generator=torch.Generator().manual_seed(t))
        theirs = oracle.step(prediction.output, t - 1, x_t, generator=torch.Generator().manual_seed(t))
        step = ancestral_step(reverse, prediction, x_t, t, noise)
        assert_close(prediction.x_0, theirs.pred_original_sample, rtol=2e-4, atol=2e-4)
        assert_close(step, theirs.prev_sample, rtol=2e-4, atol=2e-4)
        x_t = theirs.prev_sample.detach()


@pytest.mark.parametrize("clip", [True, False])
def test_ddim_step_by_step_as_diffusers_takes_it(clip, tiny_network):
    oracle = DDIMScheduler(beta_schedule="linear", clip_sample=clip)
    oracle.set_timesteps(1000)
    reverse = ReverseProcess(tiny_network().float(), NoiseSchedule.linear(), clip=clip)
    x_t = torch.randn(2, 3, 4, 4)
    for t in range(1000, 0, -1):
        prediction = reverse.predict(x_t, t)
        theirs = oracle.step(
            prediction.output, t - 1, x_t, use_clipped_model_output=True
        ).prev_sample.detach()
        assert_close(ddim_step(reverse, prediction, x_t, t, x_t), theirs, rtol=2e-4, atol=2e-4)
        x_t = theirs


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_ddim_with_new_noise_as_diffusers_takes_it(eta, tiny_network):
    oracle = DDIMScheduler(beta_schedule="linear", clip_sample=True)
    oracle.set_timesteps(50)
    path = [int(t) + 1 for t in reversed(oracle.timesteps)]
    reverse = ReverseProcess(tiny_network().float(), NoiseSchedule.linear())
    short = reverse.with_schedule(reverse.schedule.respaced(path))
    x_t = torch.randn(2, 3, 4, 4)
    for k in range(50, 0, -1):
        prediction, noise = short.predict(x_t, k), torch.randn_like(x_t)
        theirs = oracle.step(
            prediction.output,
            path[k - 1] - 1,
            x_t,
            eta=eta,
            use_clipped_model_output=True,
            variance_noise=noise,
        ).prev_sample.detach()
        assert_close(ddim_step(short, prediction, x_t, k, noise, eta=eta), theirs, rtol=2e-4, atol=2e-4)
        x_t = theirs


def test_ddim_with_all_noise_new_is_ancestral_with_the_posterior_variance(tiny_network):
    reverse = ReverseProcess(tiny_network(), NoiseSchedule.cosine(20), variance=FixedSmall())
    x_t, noise = torch.randn(2, 1, 3, 4, 4).double()
    for t in range(20, 1, -1):
        prediction = reverse.predict(x_t, t)
        expected = ancestral_step(reverse, prediction, x_t, t, noise)
        assert_close(ddim_step(reverse, prediction, x_t, t, noise, eta=1.0), expected, rtol=1e-9, atol=1e-9)
        first_order = dpm_solver_step(reverse, prediction, x_t, t, noise, stochastic=True)
        assert_close(first_order, expected, rtol=1e-9, atol=1e-9)
        assert_close(
            dpm_solver_step(reverse, prediction, x_t, t, noise),
            ddim_step(reverse, prediction, x_t, t, noise),
            rtol=1e-9,
            atol=1e-9,
        )


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("num_steps", [3, 20])
def test_dpm_solver_step_by_step_as_diffusers_takes_it(stochastic, num_steps, tiny_network):
    algorithm = "sde-dpmsolver++" if stochastic else "dpmsolver++"
    oracle = DPMSolverMultistepScheduler(
        beta_schedule="linear", algorithm_type=algorithm, final_sigmas_type="zero"
    )
    oracle.set_timesteps(num_steps)
    path = [int(t) + 1 for t in reversed(oracle.timesteps)]
    reverse = ReverseProcess(tiny_network().float(), NoiseSchedule.linear(), clip=False)
    short = reverse.with_schedule(reverse.schedule.respaced(path))
    x_t, before = torch.randn(2, 3, 4, 4), None
    for k in range(num_steps, 0, -1):
        prediction, noise = short.predict(x_t, k), torch.randn_like(x_t)
        theirs = oracle.step(
            prediction.output, path[k - 1] - 1, x_t, variance_noise=noise
        ).prev_sample.detach()
        step = dpm_solver_step(short, prediction, x_t, k, noise, before, stochastic=stochastic)
        assert_close(step, theirs, rtol=5e-4, atol=5e-4)
        x_t, before = theirs, prediction.x_0


@pytest.mark.parametrize(("sampler", "order"), [("ddim", 1), ("dpm++", 2)])
def test_the_order_of_convergence(sampler, order):
    """The exact flow of Gaussian data scales x_t − √ᾱ_t m with the standard deviation of x_t; errors at t_1."""
    schedule = NoiseSchedule.linear(50_000)
    data = GaussianData(schedule)
    reverse = ReverseProcess(data.network, schedule, X0(), clip=False)
    ab = schedule.alphas_bar
    spread = (ab * data.s**2 + 1 - ab).sqrt()
    errors = []
    for steps in (20, 40, 80, 160):
        way = chain(reverse, (1, 1, 8, 8), steps=steps, path="log-snr", sampler=sampler)
        way = dataclasses.replace(way, dtype=torch.float64)
        *_, first_step, _ = states = list(way.states(way.noise(Purpose.PRIOR), steps))
        x_T, t = states[0].x_t, first_step.t
        exact = ab[t].sqrt() * data.m + spread[t] / spread[-1] * (x_T - ab[-1].sqrt() * data.m)
        errors.append(float((first_step.x_t - exact).abs().max()))
    found = [math.log2(a / b) for a, b in zip(errors, errors[1:])]
    assert found[-1] == pytest.approx(order, abs=0.15), found
    assert errors[-1] < {1: 0.05, 2: 0.005}[order]


@pytest.mark.parametrize(("sampler", "steps"), [("dpm++", 20), ("sde-dpm++", 80)])
def test_few_steps_of_the_second_order_keep_the_moments_of_gaussian_data(sampler, steps):
    schedule = NoiseSchedule.linear()
    reverse = ReverseProcess(GaussianData(schedule).network, schedule, X0(), clip=False)
    x_0 = last(sample(reverse, (40, 1, 32, 32), steps=steps, path="log-snr", sampler=sampler)).x_t
    assert float(x_0.mean()) == pytest.approx(0.3, abs=0.01)
    assert float(x_0.std()) == pytest.approx(0.5, rel=0.02)


def test_dynamic_thresholding_as_diffusers_does_it(tiny_network):
    oracle = DDIMScheduler(
        beta_schedule="linear", clip_sample=False, thresholding=True, dynamic_thresholding_ratio=0.9,
        sample_max_value=1e9,
    )  # fmt: skip
    oracle.set_timesteps(1000)
    reverse = ReverseProcess(tiny_network().float(), NoiseSchedule.linear()).with_clip(0.9)
    x_t = 3 * torch.randn(3, 3, 4, 4) * torch.tensor([0.01, 1, 5]).reshape(3, 1, 1, 1)
    for t in (1, 400, 1000):
        prediction = reverse.predict(x_t, t)
        theirs = oracle.step(prediction.output, t - 1, x_t, use_clipped_model_output=True)
        assert_close(prediction.x_0, theirs.pred_original_sample, rtol=1e-4, atol=1e-5)
        assert_close(ddim_step(reverse, prediction, x_t, t, x_t), theirs.prev_sample, rtol=2e-4, atol=2e-4)
        assert prediction.x_0.abs().max() <= 1
    one, other = (last(sample(reverse, (2, 3, 4, 4), steps=3, threshold=p)).x_t for p in (None, 0.5))
    assert not torch.allclose(one, other)


def test_forward_noise_is_diffusers_add_noise():
    oracle = DDPMScheduler(beta_schedule="linear")
    x_0, eps = torch.randn(2, 4, 1, 2, 2)
    t = torch.tensor([1, 10, 500, 1000])
    reverse = ReverseProcess(lambda x, clock: x, NoiseSchedule.linear())
    ours = reverse.forward_process.q_marginal(x_0, t).reparameterize(eps)
    assert_close(ours, oracle.add_noise(x_0, eps, t - 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("steps", [None, 7])
def test_gaussian_data_comes_out_with_its_own_moments(steps):
    """With the exact denoiser and variance, x_0 ~ N(m, s²) on any path (x_T is N(0, 1) to within 1e-3)."""
    schedule = NoiseSchedule.cosine(60)
    data = GaussianData(schedule, 0.3, 0.5)

    class OnAnyPath(torch.nn.Module):
        def forward(self, x_t, clock_t):
            return data.network(x_t, clock_t)

    reverse = ReverseProcess(OnAnyPath(), schedule, X0(), ExactVariance(0.5), clip=False)
    x_0 = last(sample(reverse, (40, 1, 32, 32), steps=steps)).x_t
    # the last step returns the mean, without Var(x_0|x_1)
    t_1 = 1
    ab = float(schedule.alphas_bar[t_1])
    lost = 0.25 * (1 - ab) / (ab * 0.25 + 1 - ab)
    assert float(x_0.mean()) == pytest.approx(0.3, abs=0.01)
    assert float(x_0.var()) == pytest.approx(0.25 - lost, rel=0.03)


def test_ddim_maps_quantiles_of_gaussian_data():
    """The exact flow sends x_T to m + s z; at 1000 steps DDIM is close to it."""
    schedule = NoiseSchedule.cosine(1000)
    reverse = ReverseProcess(GaussianData(schedule).network, schedule, X0(), clip=False)
    states = list(sample(reverse, (1, 1, 16, 16), sampler="ddim"))
    assert_close(states[-1].x_t, 0.3 + 0.5 * states[0].x_t, rtol=0, atol=0.03)


def test_states_run_from_T_to_0(tiny_network):
    reverse = ReverseProcess(tiny_network(), NoiseSchedule.linear())
    states = list(sample(reverse, (2, 3, 4, 4), steps=4))
    assert [s.t for s in states] == [1000, 667, 334, 1, 0]
    assert states[-1].x_t is states[-1].x_0_hat
    assert all(s.x_t.shape == (2, 3, 4, 4) and s.x_0_hat.abs().max() <= 1 for s in states)
    assert [s.t for s in sample(reverse, (1, 3, 4, 4), steps=1)] == [1000, 0]
    assert not states[-1].x_t.requires_grad


@pytest.mark.parametrize("path", [[1, 334, 667, 1000], (1, 334, 667, 1000), range(1, 1001, 333)], ids=str)
@pytest.mark.parametrize("steps", [None, 4])
def test_the_steps_themselves_are_a_path(path, steps, tiny_network):
    reverse = ReverseProcess(tiny_network(), NoiseSchedule.linear())
    states = list(sample(reverse, (2, 3, 4, 4), path=path, steps=steps))
    assert [s.t for s in states] == [1000, 667, 334, 1, 0]
    assert_close(states[-1].x_t, last(sample(reverse, (2, 3, 4, 4), steps=4)).x_t, rtol=0, atol=0)


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "dpm++", "sde-dpm++"])
def test_the_same_picture_in_any_batch(sampler, tiny_network):
    reverse = ReverseProcess(tiny_network(), NoiseSchedule.linear())

    def draw(num, first, seed=3):
        return last(sample(reverse, (num, 3, 4, 4), steps=10, sampler=sampler, seed=seed, first=first)).x_t

    whole = draw(6, 0)
    assert_close(torch.cat([draw(1, 0), draw(3, 1), draw(2, 4)]), whole, rtol=1e-12, atol=1e-12)
    assert not torch.isclose(draw(6, 0, seed=4), whole).all(dim=(1, 2, 3)).any()


def test_labels_and_learned_variance_reach_the_sampler(tiny_network):
    network = tiny_network(out_channels=6, num_classes=2)
    reverse = ReverseProcess(network, NoiseSchedule.linear(), variance=LearnedRange())
    label = torch.tensor([0, 1])
    one, other = (
        last(sample(reverse, (2, 3, 4, 4), steps=3, label=label, guidance=g)).x_t for g in (1.0, 3.0)
    )
    assert not torch.allclose(one, other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"sampler": "euler"},
            r"unknown sampler 'euler'; choose one of ancestral, ddim, dpm\+\+, sde-dpm\+\+",
        ),
        ({"path": "odd"}, "unknown path 'odd'; choose one of even, log-snr, quadratic, shifted"),
        ({"eta": 0.5}, "eta is 0.5, with the sampler 'ancestral'; give ddim"),
        ({"eta": 1.5, "sampler": "ddim"}, "eta is 1.5"),
        ({"threshold": 1.5}, "clip is 1.5"),
        ({"path": [5, 1000], "steps": 3}, "steps is 3 and path has 2 steps; leave steps out, or name a path"),
        ({"path": [5, 5, 1000]}, r"timesteps \[5, 5, 1000\] must increase strictly within 1..1000"),
        ({"path": []}, "timesteps is empty"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": 1001}, "steps is 1001"),
        ({"guidance": 2.0}, "give label="),
    ],
)
def test_what_is_refused(arguments, message, tiny_network):
    reverse = ReverseProcess(tiny_network(), NoiseSchedule.linear())
    with pytest.raises(ValueError, match=message):
        sample(reverse, (1, 3, 4, 4), **arguments)  # at once, not at the first state


@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
def test_a_network_that_does_not_drop_out_does_not_begin_to(sampler):
    class Network(torch.nn.Dropout):
        def forward(self, x_t, clock_t):
            return super().forward(x_t)

    network = Network(0.5).eval()
    reverse = ReverseProcess(network, NoiseSchedule.linear())
    one, other = (last(sample(reverse, (2, 3, 4, 4), steps=3, sampler=sampler)).x_t for _ in range(2))
    assert_close(one, other, rtol=0, atol=0)
    assert not network.training
