import math

import pytest
import torch
from torch.testing import assert_close

from nelbo import (
    X0,
    DiscretizedGaussian,
    Epsilon,
    FixedLarge,
    FixedSmall,
    ForwardProcess,
    LearnedRange,
    NoiseSchedule,
    ReferenceDecoder,
    ReverseProcess,
    V,
)


def test_the_mean_is_the_forward_posterior_of_the_estimate(schedule, tiny_network, images):
    """Lecture: reverse process."""
    reverse = ReverseProcess(tiny_network(), schedule)
    x_t, t = torch.randn_like(images), torch.tensor([1, 2, 3, schedule.num_timesteps])
    p = reverse.p_transition(x_t, t)
    q = ForwardProcess(schedule).q_posterior(reverse.predict(x_t, t).x_0, x_t, t)
    assert_close(p.mean, q.mean)
    assert_close(p.log_variance.exp().flatten(), schedule.betas[t])


def test_the_mean_in_terms_of_eps_is_hos(tiny_network, images):
    """μ_θ = (x_t − β_t/√(1−ᾱ_t) ε_θ)/√α_t, Ho2020 (11), and μ̃_t likewise at the ε that made x_t.

    Lecture: reverse process; μ̃_t and μ_θ as functions of x_t and ε
    """
    s = NoiseSchedule.linear()
    network = tiny_network()
    reverse = ReverseProcess(network, s, clip=False)
    for t in (1, 2, 77, 1000):
        eps = network(images, torch.full((4,), t - 1))
        expected = (images - s.betas[t] / (1 - s.alphas_bar[t]).sqrt() * eps) / s.alphas[t].sqrt()
        assert_close(reverse.p_transition(images, t).mean, expected, rtol=1e-8, atol=1e-9)
        x_0 = (images - (1 - s.alphas_bar[t]).sqrt() * eps) / s.alphas_bar[t].sqrt()
        assert_close(ForwardProcess(s).q_posterior(x_0, images, t).mean, expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("parameterization", [Epsilon(), X0(), V()], ids=lambda p: type(p).__name__)
def test_after_clipping_eps_still_agrees_with_x_0(parameterization, tiny_network, images):
    reverse = ReverseProcess(tiny_network(), NoiseSchedule.linear(), parameterization)
    x_t, t = 3 * torch.randn_like(images), torch.tensor([1, 300, 600, 1000])
    prediction = reverse.predict(x_t, t)
    assert prediction.x_0.abs().max() <= 1
    again = ForwardProcess(reverse.schedule).q_marginal(prediction.x_0, t).reparameterize(prediction.eps)
    assert_close(again, x_t, rtol=1e-9, atol=1e-9)


def test_the_network_is_told_the_clock_of_the_whole_schedule(images):
    told = []

    def network(x_t, clock_t):
        told.append(clock_t.tolist())
        return x_t

    reverse = ReverseProcess(network, NoiseSchedule.linear())
    reverse.predict(images, 1)
    reverse.predict(images, torch.tensor([1, 2, 3, 1000]))
    short = reverse.with_schedule(reverse.schedule.respaced([10, 500]))
    short.predict(images, 2)
    assert told == [[0] * 4, [0, 1, 2, 999], [499] * 4]


def test_a_label_reaches_a_network_with_classes_and_no_other(tiny_network, images):
    schedule, label = NoiseSchedule.linear(), torch.tensor([0, 1, -1, 2])
    reverse = ReverseProcess(tiny_network(num_classes=3), schedule)
    with_label = reverse.predict(images, 500, label=label)
    assert not torch.allclose(
        with_label.output[0], reverse.predict(images, 500, label=label * 0 - 1).output[0]
    )
    plain = ReverseProcess(lambda x_t, clock_t: x_t, schedule)
    assert_close(plain.predict(images, 5).output, images)
    for call in (reverse.p_transition, reverse.predict):
        call(images, 3, label=label)
    reverse.p_decoder(images, label=label)


def test_guidance_moves_away_from_the_unconditional_output(tiny_network, images):
    reverse = ReverseProcess(tiny_network(num_classes=3), NoiseSchedule.linear())
    label = torch.tensor([0, 1, 2, 2])
    c = reverse.predict(images, 500, label=label).output
    u = reverse.predict(images, 500, label=torch.full_like(label, -1)).output
    guided = reverse.predict(images, 500, label=label, guidance=3.0)
    assert_close(guided.output, u + 3 * (c - u))
    zero = reverse.predict(images, torch.tensor([500] * 4), label=label, guidance=0.0)
    assert_close(zero.output, u)
    with pytest.raises(ValueError, match="give label="):
        reverse.predict(images, 500, guidance=2.0)


def test_learned_range_splits_the_channels(tiny_network, images):
    reverse = ReverseProcess(tiny_network(out_channels=6), NoiseSchedule.linear(), variance=LearnedRange())
    prediction = reverse.predict(images, 10)
    both = reverse.network(images, torch.full((4,), 9))
    assert_close(prediction.output, both[:, :3])
    assert_close(prediction.variance_output, both[:, 3:])
    p = reverse.p_transition(images, 10)
    assert p.log_variance.shape == images.shape


@pytest.mark.parametrize(("out_channels", "variance"), [(6, FixedLarge()), (3, LearnedRange())])
def test_an_output_of_the_wrong_shape_is_named(tiny_network, images, out_channels, variance):
    reverse = ReverseProcess(
        tiny_network(out_channels=out_channels), NoiseSchedule.linear(), variance=variance
    )
    with pytest.raises(ValueError, match=rf"returned \(4, {out_channels}, 4, 6\)"):
        reverse.predict(images, 1)


def test_a_fixed_variance_ignores_what_a_network_has_learned_of_it(tiny_network, images):
    learned = ReverseProcess(
        tiny_network(out_channels=6), NoiseSchedule.linear(), V(), LearnedRange(), False, ReferenceDecoder
    ).eval()
    fixed = learned.with_variance(FixedSmall())
    short = fixed.with_schedule(learned.schedule.respaced([5, 80, 1000]))
    for reverse, t in ((fixed, 80), (short, 2)):
        p, q = reverse.p_transition(images, t), learned.p_transition(images, 80)
        assert reverse.predict(images, t).variance_output is None
        assert_close(reverse.predict(images, t).x_0, learned.predict(images, 80).x_0)
        assert_close(p.log_variance, FixedSmall().log_variance(reverse.schedule, t, images))
        assert (p.mean == q.mean).all() == (reverse is fixed)
        assert reverse.network is learned.network
        assert (reverse.clip, reverse.decoder, reverse.training) == (False, ReferenceDecoder, False)
        assert isinstance(reverse.parameterization, V)
    assert_close(fixed.with_variance(LearnedRange()).p_transition(images, 80).log_variance, q.log_variance)
    plain = ReverseProcess(tiny_network(), NoiseSchedule.linear(), variance_channels=True)
    with pytest.raises(
        ValueError, match=r"with FixedLarge and variance_channels it must return \(4, 6, 4, 6\)"
    ):
        plain.predict(images, 1)
    with pytest.raises(ValueError, match=r"with LearnedRange it must return \(4, 6, 4, 6\)"):
        ReverseProcess(tiny_network(), plain.schedule).with_variance(LearnedRange()).predict(images, 1)


def test_the_decoder_is_a_part_of_the_process(tiny_network, images):
    plain = ReverseProcess(tiny_network(), NoiseSchedule.linear(), variance=FixedSmall(), clip=False)
    reference = plain.with_decoder(ReferenceDecoder).with_schedule(plain.schedule.respaced([1, 2, 500]))
    ours, theirs = plain.p_decoder(images), reference.p_decoder(images)
    assert (type(ours), type(theirs)) == (DiscretizedGaussian, ReferenceDecoder)
    assert_close(theirs.mean, ours.mean)
    assert_close(theirs.log_variance, ours.log_variance)
    assert reference.network is plain.network
    assert (type(reference.variance), reference.clip) == (FixedSmall, False)


@pytest.mark.parametrize("mode", [True, False])
def test_another_process_leaves_the_mode_of_the_network_alone(mode):
    network = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.BatchNorm2d(3)).train(mode)
    network[0].train(not mode)
    reverse = ReverseProcess(network, NoiseSchedule.linear())
    for own in (True, False):
        reverse.training = own
        others = (
            reverse.with_schedule(reverse.schedule.respaced([1, 1000])),
            reverse.with_variance(FixedSmall()),
            reverse.with_decoder(ReferenceDecoder),
        )
        assert [other.training for other in others] == [own] * 3
    assert (network.training, network[0].training, network[1].training) == (mode, not mode, mode)


def test_the_entropy_of_the_prior_keeps_its_digits():
    reverse = ReverseProcess(lambda x, clock: x, NoiseSchedule.linear())
    prior = reverse.p_prior((2, 3, 4, 4))
    assert prior.entropy().tolist() == pytest.approx([24 * math.log(2 * math.pi * math.e)] * 2, rel=1e-12)
    assert prior.sample().dtype == prior.log_prob(prior.mean).dtype == torch.float32


def test_prior_and_decoder(tiny_network, images):
    """Lecture: x_T ~ N(0, I)."""
    reverse = ReverseProcess(tiny_network(), NoiseSchedule.linear(), variance=FixedSmall())
    prior = reverse.p_prior(images.shape)
    assert prior.shape == images.shape
    assert not prior.mean.any()
    assert not prior.log_variance.any()
    decoder = reverse.p_decoder(images)
    assert_close(decoder.mean, reverse.predict(images, 1).x_0, rtol=1e-9, atol=1e-12)
    assert_close(decoder.log_variance.exp().squeeze(), reverse.schedule.posterior_variances[2])


def test_bfloat16_networks_are_answered_in_float32(images):
    reverse = ReverseProcess(lambda x, clock: x.to(torch.bfloat16), NoiseSchedule.linear())
    prediction = reverse.predict(images.to(torch.bfloat16), 3)
    assert prediction.x_0.dtype == prediction.eps.dtype == torch.float32


def test_moving_the_module_moves_the_tables_and_keeps_them_float64(tiny_network):
    reverse = ReverseProcess(tiny_network(), NoiseSchedule.linear()).to("meta", torch.float32)
    assert reverse.schedule.betas.device.type == "meta"
    assert reverse.schedule.betas.dtype == torch.float64
    assert reverse.forward_process.schedule is reverse.schedule
