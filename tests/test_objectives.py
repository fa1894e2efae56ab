import pytest
import torch
from torch.testing import assert_close

from nelbo import (
    X0,
    Epsilon,
    FixedLarge,
    FixedSmall,
    LearnedRange,
    NoiseSchedule,
    ReverseProcess,
    V,
    bits_per_dim,
    bound_term,
    hybrid,
    simple,
    variational,
    weighted,
)
from nelbo.objectives import OBJECTIVES, stratified_uniforms, uniform_timesteps


def test_simple_is_the_mean_squared_error_of_the_noise(tiny_network, images):
    """Lecture: simple, algorithm 1. In the lecture's own terms, √ᾱ written out."""
    s, network = NoiseSchedule.linear(), tiny_network()
    eps, t = torch.randn_like(images), torch.tensor([1, 50, 999, 1000])
    ab = s.alphas_bar[t].reshape(-1, 1, 1, 1)
    eps_theta = network(ab.sqrt() * images + (1 - ab).sqrt() * eps, t - 1)
    expected = ((eps - eps_theta) ** 2).flatten(1).mean(1)
    assert_close(simple(ReverseProcess(network, s), images, eps, t), expected)


@pytest.mark.parametrize(("parameterization", "target"), [(X0(), "x_0"), (V(), "v")])
def test_simple_is_on_what_the_network_predicts(parameterization, target, images):
    s, t, eps = NoiseSchedule.linear(), 300, torch.randn(4, 3, 4, 6, dtype=torch.float64)
    v = s.alphas_bar[t].sqrt() * eps - (1 - s.alphas_bar[t]).sqrt() * images
    answer = {"x_0": images, "v": v}[target]
    perfect = ReverseProcess(lambda x, clock: answer, s, parameterization)
    assert_close(simple(perfect, images, eps, t), torch.zeros(4).double())
    off = ReverseProcess(lambda x, clock: answer + 2, s, parameterization)
    assert_close(simple(off, images, eps, t), 4 * torch.ones(4).double())


@pytest.mark.parametrize("variance", [FixedLarge(), FixedSmall()], ids=lambda v: type(v).__name__)
@pytest.mark.parametrize("parameterization", [Epsilon(), V(), X0()], ids=lambda p: type(p).__name__)
def test_weighted_is_the_bound_but_for_a_constant(parameterization, variance, tiny_network, images):
    """Lecture: ω_t. The constant is KL(N(μ, β̃_t) ‖ N(μ, σ_t²))."""
    s = NoiseSchedule.linear()
    reverse = ReverseProcess(tiny_network(), s, parameterization, variance, clip=False)
    eps = torch.randn_like(images)
    for t in (2, 3, 500, 1000):
        sigma_squared = s.betas[t] if variance == FixedLarge() else s.posterior_variances[t]
        ratio = s.posterior_variances[t] / sigma_squared
        constant = 0.5 * (ratio - 1 - ratio.log()) * images[0].numel()
        assert_close(
            weighted(reverse, images, eps, t) + constant,
            bound_term(reverse, images, eps, t),
            rtol=1e-8,
            atol=1e-9,
        )
    omega = s.betas[500] ** 2 / (2 * s.betas[500] * s.alphas[500] * (1 - s.alphas_bar[500]))
    large = ReverseProcess(lambda x, clock: eps + 1, s)
    assert_close(weighted(large, images, eps, 500), omega.expand(4) * 72, rtol=1e-9, atol=0)


def test_variational_averages_to_the_bound_without_its_prior(tiny_network, images):
    s = NoiseSchedule.linear(6, 0.02, 0.5)
    reverse = ReverseProcess(tiny_network(), s)
    eps = torch.randn(6, *images.shape, dtype=torch.float64)
    terms = sum(bound_term(reverse, images, eps[t - 1], t) for t in range(1, 7))
    mean = sum(variational(reverse, images, eps[t - 1], t) for t in range(1, 7)) / 6
    assert_close(mean, bits_per_dim(terms, 72))


def test_hybrid_trains_the_mean_by_simple_alone(tiny_network, images):
    network = tiny_network(out_channels=6)
    reverse = ReverseProcess(network, NoiseSchedule.linear(), variance=LearnedRange())
    eps, t = torch.randn_like(images), torch.tensor([1, 2, 500, 1000])

    def gradient(objective):
        network.zero_grad()
        objective(reverse, images, eps, t).sum().backward()
        return network.mix.weight.grad.clone()

    assert_close(gradient(hybrid)[:3], gradient(simple)[:3])
    assert_close(gradient(hybrid)[3:], 1e-3 * gradient(variational)[3:])
    assert gradient(hybrid)[3:].abs().max() > 0
    expected = simple(reverse, images, eps, t) + 1e-3 * variational(reverse, images, eps, t)
    assert_close(hybrid(reverse, images, eps, t), expected)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_objectives_pass_the_label_on(name, tiny_network, images):
    reverse = ReverseProcess(tiny_network(num_classes=2), NoiseSchedule.linear())
    eps, t = torch.randn_like(images), torch.tensor([2, 20, 500, 1000])
    one, other = (OBJECTIVES[name](reverse, images, eps, t, label=torch.full((4,), k)) for k in (0, 1))
    assert one.shape == (4,)
    assert not torch.isclose(one, other).any()


def test_stratified_steps_cover_the_range_and_are_uniform_one_by_one():
    T, B = 1000, 50
    for offset in torch.rand(20, dtype=torch.float64):
        t = uniform_timesteps(stratified_uniforms(offset, torch.arange(B), B), T)
        assert ((t - 1) // (T // B)).unique().numel() >= B - 1
    offsets = (torch.arange(T, dtype=torch.float64) + 0.5) / T
    one = uniform_timesteps(torch.cat([stratified_uniforms(o, torch.tensor([7]), B) for o in offsets]), T)
    assert torch.equal(one.sort().values, torch.arange(1, T + 1))


def test_a_share_of_the_global_batch_draws_the_same_numbers():
    whole = stratified_uniforms(0.3, torch.arange(8), 8)
    assert torch.equal(stratified_uniforms(0.3, torch.arange(4, 8), 8), whole[4:])


def test_uniform_steps_reach_both_ends():
    assert uniform_timesteps(torch.tensor([0.0, 0.9999999999], dtype=torch.float64), 1000).tolist() == [
        1,
        1000,
    ]
