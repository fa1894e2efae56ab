import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch.testing import assert_close

from exact import ExactVariance, GaussianData
from nelbo import X0, FixedLarge, FixedSmall, LearnedRange, NoiseSchedule, ReverseProcess, sample
from nelbo.samplers import ancestral_step, ddim_step


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


@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
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
        ({"sampler": "euler"}, "unknown sampler 'euler'; choose one of ancestral, ddim"),
        ({"path": "odd"}, "unknown path 'odd'; choose one of even, quadratic, shifted"),
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
