"""The bound against what is known: closed forms, its other half, probability theory, and itself."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from exact import ExactVariance, GaussianData
from nelbo import (
    X0,
    Analytic,
    Epsilon,
    FixedLarge,
    FixedSmall,
    Gaussian,
    LearnedRange,
    NoiseSchedule,
    ReferenceDecoder,
    ReverseProcess,
    V,
    bits_per_dim,
    bound_term,
    floor,
    kl_divergence,
    path_bound,
    variational_bound,
)
from nelbo.bound import prior_term

SHORT = NoiseSchedule.linear(20, 0.01, 0.4)


def exact_process(data, variance=None):
    return ReverseProcess(data.network, data.schedule, X0(), variance or ExactVariance(data.s), clip=False)


def quadrature(m, s, nodes=4):
    """Points (x_0, ε) and weights that integrate any polynomial up to degree 7 over N(m, s²) × N(0, 1)."""
    z, w = np.polynomial.hermite_e.hermegauss(nodes)
    z, w = torch.tensor(z), torch.tensor(w / w.sum())
    x_0 = (m + s * z).repeat_interleave(nodes).reshape(-1, 1, 1, 1)
    return x_0, z.repeat(nodes).reshape(-1, 1, 1, 1), (w[:, None] * w[None, :]).flatten()


@pytest.mark.parametrize("schedule", [SHORT, NoiseSchedule.linear(), NoiseSchedule.cosine(40)], ids=repr)
@pytest.mark.parametrize("s", [0.1, 0.5, 1.0])
def test_the_crown(schedule, s):
    """Lecture: loss, parts 4-6. At the exact reverse process of Gaussian data, with a continuous decoder:

    E[L_T + Σ L_{t−1} + L_0] = H(x_0) + KL(q(x_T) ‖ p(x_T)), in closed form; the terms are quadratic in
    (x_0, ε), so the quadrature on the left is exact too.
    """
    data = GaussianData(schedule, 0.3, s)
    reverse = exact_process(data)
    x_0, eps, weights = quadrature(data.m, data.s)

    def expect(values):
        return float((weights * values).sum())

    x_1 = reverse.forward_process.q_marginal(x_0, 1).reparameterize(eps)
    l_0 = expect(-reverse.p_transition(x_1, 1).log_prob(x_0))
    continuous = reverse.with_decoder(Gaussian)
    assert l_0 == pytest.approx(expect(bound_term(continuous, x_0, eps, 1)), rel=1e-12)
    l_between = sum(expect(bound_term(reverse, x_0, eps, t)) for t in range(2, schedule.num_timesteps + 1))
    bound = expect(prior_term(reverse, x_0)) + l_between + l_0

    entropy = 0.5 * math.log(2 * math.pi * math.e * s**2)
    one = torch.zeros(1, 1, dtype=torch.float64)
    prior = Gaussian(one, one)
    closed = entropy + float(kl_divergence(data.marginal(one, schedule.num_timesteps), prior))
    assert bound == pytest.approx(closed, rel=1e-9, abs=1e-9)


def test_at_the_exact_denoiser_the_path_is_constant(generator):
    """−ln p(x_{0:T})/q(x_{1:T}|x_0) = −ln q(x_0) + ln q(x_T)/p(x_T), whatever the path between.

    Lecture: joint, Markov; q(x_{1:T}|x_0)
    """
    data = GaussianData(SHORT)
    reverse = exact_process(data).with_decoder(Gaussian)
    x_0 = data.m + data.s * torch.randn(50, 1, 1, 1, dtype=torch.float64)
    along = path_bound(reverse, x_0, generator=generator)
    generator.manual_seed(0)  # (the same path again)
    x_T = x_0
    for t in range(1, SHORT.num_timesteps + 1):
        x_T = reverse.forward_process.q_transition(x_T, t).sample(generator=generator)
    log_p_T = -0.5 * (x_T**2 + math.log(2 * math.pi)).flatten(1).sum(1)
    marginal_0 = Gaussian(
        torch.full_like(x_0, data.m), torch.tensor(2 * math.log(data.s), dtype=torch.float64)
    )
    expected = -marginal_0.log_prob(x_0) + data.marginal(x_0, SHORT.num_timesteps).log_prob(x_T) - log_p_T
    assert_close(along, expected, rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize(("level", "expected"), [(1.0, 2.9113e-5), (0.5, 7.2787e-6)])
def test_golden_prior_term(level, expected):
    """Lecture: L_T, constant, "not exactly" N(0, I)."""
    reverse = ReverseProcess(lambda x, clock: x, NoiseSchedule.linear())
    x_0 = torch.full((2, 3, 8, 8), level, dtype=torch.float64)
    assert_close(
        bits_per_dim(prior_term(reverse, x_0), 192),
        torch.full((2,), expected, dtype=torch.float64), rtol=2e-5, atol=0,
    )  # fmt: skip


def test_terms_are_the_kl_and_the_decoder(schedule, tiny_network, images):
    """Lecture: L_{t-1}, weighted MSE on means."""
    reverse = ReverseProcess(tiny_network(), schedule, variance=FixedSmall())
    eps = torch.randn_like(images)
    for t in (2, 3, schedule.num_timesteps):
        x_t = reverse.forward_process.q_marginal(images, t).reparameterize(eps)
        mu, mu_theta = (
            reverse.forward_process.q_posterior(images, x_t, t).mean,
            reverse.p_transition(x_t, t).mean,
        )
        expected = ((mu - mu_theta) ** 2).flatten(1).sum(1) / (2 * schedule.posterior_variances[t])
        assert_close(bound_term(reverse, images, eps, t), expected, rtol=1e-9, atol=0)
    x_1 = reverse.forward_process.q_marginal(images, 1).reparameterize(eps)
    assert_close(bound_term(reverse, images, eps, 1), -reverse.p_decoder(x_1).log_prob(images))


@pytest.mark.parametrize(
    "variance", [FixedLarge(), FixedSmall(), LearnedRange()], ids=lambda v: type(v).__name__
)
def test_mixed_steps_in_one_batch(variance, tiny_network, images, schedule):
    network = tiny_network(out_channels=6 if variance.is_learned else 3)
    reverse = ReverseProcess(network, schedule, variance=variance)
    eps, t = torch.randn_like(images), torch.tensor([1, 2, schedule.num_timesteps, 1])
    mixed = bound_term(reverse, images, eps, t)
    alone = [bound_term(reverse, images[i : i + 1], eps[i : i + 1], int(t[i])) for i in range(4)]
    assert_close(mixed, torch.cat(alone))
    mixed.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


@pytest.mark.parametrize("output", [-5.0, -40.0, 40.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_branch_not_taken_spoils_no_gradient(output, dtype):
    """A learned variance far beyond its range, on ten steps of the linear schedule: each image as it is alone."""
    schedule = NoiseSchedule.linear().respaced(range(1, 1001, 111))
    t = torch.tensor([1, 2, 5, 10, 1])
    x_0 = torch.linspace(-1, 1, 60, dtype=dtype).mul(127.5).round().div(127.5).reshape(5, 1, 3, 4)
    learned = torch.full((5, 2, 3, 4), output, dtype=dtype)
    learned[:, 0] = 0.3

    def gradient(images):
        said = learned[images].clone().requires_grad_()
        reverse = ReverseProcess(lambda x, clock: said, schedule, variance=LearnedRange())
        term = bound_term(reverse, x_0[images], torch.ones_like(x_0[images]), t[images])
        term.sum().backward()
        return term.detach(), said.grad

    mixed = gradient(slice(None))
    for i in range(5):
        for ours, alone in zip(mixed, gradient(slice(i, i + 1))):
            assert_close(ours[i : i + 1], alone, equal_nan=True)
    if output == -5.0:
        assert torch.isfinite(mixed[1]).all()


def test_the_record(schedule, tiny_network, images, generator):
    reverse = ReverseProcess(tiny_network(), schedule)
    bound = variational_bound(reverse, images, generator=generator)
    assert (
        bound.prior.shape
        == bound.reconstruction.shape
        == bound.total.shape
        == bound.bits_per_dim.shape
        == (4,)
    )
    assert bound.transitions.shape == (4, schedule.num_timesteps - 1)
    assert [field.name for field in dataclasses.fields(bound)] == [
        "prior", "transitions", "reconstruction", "total", "bits_per_dim"
    ]  # fmt: skip
    assert_close(bound.total, bound.prior + bound.transitions.sum(1) + bound.reconstruction)
    assert_close(bound.bits_per_dim, bound.total / (72 * math.log(2)))


def test_column_j_is_the_divergence_at_j_plus_2(images):
    """With the exact answer given everywhere but at t = 3, only column 1 is not zero (σ² = β̃)."""
    schedule = NoiseSchedule.from_betas([0.1, 0.2, 0.3, 0.4])

    def network(x_t, clock_t):
        return images + (clock_t == 2)[:, None, None, None] * 0.01

    reverse = ReverseProcess(network, schedule, X0(), FixedSmall(), clip=False)
    transitions = variational_bound(reverse, images).transitions
    assert (transitions[:, 1] > 1e-4).all()
    assert_close(transitions[:, [0, 2]], torch.zeros(4, 2, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("clip", [True, False])
def test_path_and_divergences_agree_in_expectation(tiny_network, images, clip, generator):
    """Lecture: loss, parts 1-3; loss, parts 4-6. Equal in expectation, at a network that knows nothing."""
    reverse = ReverseProcess(tiny_network(), NoiseSchedule.linear(8, 0.02, 0.5), clip=clip)
    x_0 = images[:1].expand(4000, *images.shape[1:])
    path = path_bound(reverse, x_0, generator=generator)
    divergences = variational_bound(reverse, x_0, generator=generator).total
    difference = float(path.mean() - divergences.mean())
    error = math.sqrt(float(path.var() + divergences.var()) / 4000)
    assert abs(difference) < 4 * error
    assert error < 0.01 * float(path.mean())


def single_term_draws(reverse, x_0, t, generator):
    """One term, as a ratio at a drawn x_{t−1} and as a divergence, at the same x_t."""
    x_t = reverse.forward_process.q_marginal(x_0, t).sample(generator=generator)
    q = reverse.forward_process.q_posterior(x_0, x_t, t)
    x_prev = q.sample(generator=generator)
    with torch.no_grad():
        p = reverse.p_transition(x_t, t)
    return q.log_prob(x_prev) - p.log_prob(x_prev), kl_divergence(q, p)


@pytest.mark.parametrize("network", ["tiny", "exact"])
@pytest.mark.parametrize("t", [2, 5, 20])
def test_rao_blackwell_term_by_term(tiny_network, network, t, generator):
    """Lecture: loss, parts 4-6, "reducing variance": each term varies less as a divergence, same mean."""
    if network == "tiny":
        reverse = ReverseProcess(tiny_network(), SHORT)
    else:
        reverse = exact_process(GaussianData(SHORT), FixedLarge())
    x_0 = (0.3 + 0.5 * torch.randn(1, 3, 4, 4, dtype=torch.float64)).expand(8000, 3, 4, 4)
    ratio, divergence = single_term_draws(reverse, x_0, t, generator)
    assert float(divergence.var()) < float(ratio.var())
    assert abs(float((ratio - divergence).mean())) < 4 * float((ratio - divergence).std()) / math.sqrt(8000)


@pytest.mark.parametrize("schedule", [SHORT, NoiseSchedule.linear(200)], ids=repr)
def test_over_a_whole_path_the_divergences_can_vary_more(schedule, generator):
    """At the exact denoiser the ratios cancel along the path; the divergences, drawn apart, cannot."""
    data = GaussianData(schedule)
    reverse = exact_process(data, FixedLarge())
    x_0 = (0.3 + 0.5 * torch.randn(1, 3, 4, 4, dtype=torch.float64)).expand(600, 3, 4, 4)
    path = path_bound(reverse, x_0, generator=generator)
    divergences = variational_bound(reverse, x_0, generator=generator).total
    assert float(path.var()) * 3 < float(divergences.var())


def test_over_a_whole_path_the_divergences_can_vary_less(generator):
    reverse = ReverseProcess(lambda x, clock: torch.zeros_like(x), SHORT, X0(), FixedSmall())
    x_0 = torch.zeros(1, 3, 4, 4, dtype=torch.float64).expand(4000, 3, 4, 4)
    path = path_bound(reverse, x_0, generator=generator)
    divergences = variational_bound(reverse, x_0, generator=generator).total
    assert float(divergences.var()) < 0.5 * float(path.var())


LEVELS = (torch.arange(256, dtype=torch.float64) / 127.5 - 1).reshape(256, 1, 1, 1)
POINTS = LEVELS[[3, 100, 180, 255]].flatten()


def ideal_network(schedule):
    """E[x_0|x_t] for data that is one of four levels, each as likely."""

    def network(x_t, clock_t):
        ab = schedule.alphas_bar[clock_t + 1][:, None]
        logits = -((x_t.reshape(-1, 1) - ab.sqrt() * POINTS) ** 2) / (2 * (1 - ab))
        return (torch.softmax(logits, 1) * POINTS).sum(1).reshape(x_t.shape)

    return network


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("variance", [FixedLarge(), FixedSmall()], ids=lambda v: type(v).__name__)
@pytest.mark.parametrize("kind", ["ideal", "tiny-eps", "tiny-v", "constant"])
def test_kraft(kind, variance, clip, tiny_network, generator):
    """No network can promise short codes to everybody: Σ over the 256 values of exp(−bound) ≤ 1.

    exp(−E) ≤ p_θ(x_0) by Jensen, and the probabilities of the 256 values sum to 1.

    Lecture: loss, parts 1-3; loss, parts 4-6
    """
    schedule = NoiseSchedule.linear(16, 1e-6, 0.95)
    network, parameterization = {
        "ideal": (ideal_network(schedule), X0()),
        "constant": (lambda x, clock: torch.full_like(x, float(POINTS[1])), X0()),
        "tiny-eps": (tiny_network(channels=1), Epsilon()),
        "tiny-v": (tiny_network(channels=1), V()),
    }[kind]
    reverse = ReverseProcess(network, schedule, parameterization, variance, clip=clip)
    draws = 150
    for estimate in (lambda x: variational_bound(reverse, x, generator=generator).total,
                     lambda x: path_bound(reverse, x, generator=generator)):  # fmt: skip
        bound = estimate(LEVELS.repeat(draws, 1, 1, 1)).reshape(draws, 256).mean(0)
        total = float(torch.exp(-bound).sum())
        assert total <= 1
        if kind == "constant" and variance == FixedSmall():
            assert total > 0.9  # the inequality is nearly an equality here, so the test has teeth


def test_eps_form_drops_a_constant_of_half_a_bit():
    """Σ_t KL(N(μ, β̃_t) ‖ N(μ, β_t)) = 0.486 bits/dim at T = 1000: why no likelihood comes from an ε-MSE."""
    s = NoiseSchedule.linear()
    ratio = s.posterior_variances[2:] / s.betas[2:]
    constant = (0.5 * (ratio - 1 - ratio.log())).sum()
    assert bits_per_dim(float(constant), 1) == pytest.approx(0.486, abs=5e-4)
    reverse = ReverseProcess(lambda x, clock: torch.full_like(x, 0.25), s, X0())
    x_0 = torch.full((1, 1, 2, 2), 0.25, dtype=torch.float64)
    assert_close(
        bits_per_dim(variational_bound(reverse, x_0).transitions.sum(), 4), bits_per_dim(constant, 1)
    )


def test_the_bound_takes_the_decoder_of_the_process(tiny_network, images, schedule):
    plain = ReverseProcess(tiny_network(), schedule, variance=FixedSmall())
    reference = plain.with_decoder(ReferenceDecoder)
    eps, t = torch.randn_like(images), torch.tensor([1, 2, 1, schedule.num_timesteps])
    x_1 = plain.forward_process.q_marginal(images, 1).reparameterize(eps)
    expected = -reference.p_decoder(x_1).log_prob(images)
    assert_close(bound_term(reference, images, eps, 1), expected)
    mixed = bound_term(reference, images, eps, t)
    assert_close(mixed[[0, 2]], expected[[0, 2]])
    assert_close(mixed[[1, 3]], bound_term(plain, images, eps, t)[[1, 3]])
    one = ReverseProcess(plain.network, NoiseSchedule.from_betas([0.3])).with_decoder(ReferenceDecoder)
    x_1 = one.forward_process.q_marginal(images, 1).reparameterize(eps)
    at_one = -one.p_decoder(x_1).log_prob(images)
    assert_close(bound_term(one, images, eps, torch.ones(4, dtype=torch.int64)), at_one)
    seeds = (torch.Generator().manual_seed(3) for _ in range(2))
    along, again = (
        path_bound(r, images, generator=g) for r, g in zip((one, one.with_decoder(Gaussian)), seeds)
    )
    at_path = one.forward_process.q_marginal(images, 1).sample(generator=torch.Generator().manual_seed(3))
    masses, densities = (-r.p_decoder(at_path).log_prob(images) for r in (one, one.with_decoder(Gaussian)))
    assert_close(along - again, masses - densities)


def uncalled(x, clock):
    raise AssertionError("no network call")


def floor_bits(schedule, variance, x_0, **options):
    """L_0 and the transitions' total of a perfect network, bits per dimension."""
    bound = floor(ReverseProcess(uncalled, schedule, variance=variance, **options), x_0)
    assert_close(bound.prior, prior_term(ReverseProcess(uncalled, schedule), x_0))
    dims = x_0[0].numel()
    return bits_per_dim(bound.reconstruction, dims), bits_per_dim(bound.transitions.sum(1), dims)


def one_level_each(*levels):
    return torch.tensor(levels, dtype=torch.float64).reshape(-1, 1, 1, 1).expand(-1, 3, 2, 2) / 127.5 - 1


def test_golden_floor_of_the_lectures_schedule():
    """An inner pixel costs 1.71 bits in L_0 and a black or white one 0.62, for ±1/255 within σ_1 = 0.01."""
    x_0 = one_level_each(77, 0, 255)
    l_0, transitions = floor_bits(NoiseSchedule.linear(), FixedLarge(), x_0)
    inner, half = math.erf(1 / 2.55 / math.sqrt(2)), 0.5 + 0.5 * math.erf(1 / 2.55 / math.sqrt(2))
    expected = -torch.tensor([inner, half, half], dtype=torch.float64).log2()
    assert_close(l_0, expected, rtol=1e-9, atol=0)
    assert expected.tolist() == pytest.approx([1.71, 0.62, 0.62], abs=0.006)
    assert transitions.tolist() == pytest.approx([0.486] * 3, abs=5e-4)


def test_a_small_or_learned_variance_has_no_floor_but_l_0():
    schedule, x_0 = NoiseSchedule.linear(100), one_level_each(200, 0)
    small, none = floor_bits(schedule, FixedSmall(), x_0)
    assert not none.any()
    learned, none = floor_bits(schedule, LearnedRange(), x_0)
    assert not none.any()
    assert_close(learned, small)
    large, _ = floor_bits(schedule, FixedLarge(), x_0)
    assert (small < large - 0.01).all()  # σ_1² := β̃_2 is the end at which L_0 is less


def test_the_first_step_of_the_fine_schedule_hides_no_pixel():
    beginning = NoiseSchedule.cosine(1000, s=0.0).respaced([1, 2, 3])
    l_0, _ = floor_bits(beginning, FixedLarge(), one_level_each(77, 255))
    assert l_0.tolist() == pytest.approx([0.018, 0.009], abs=5e-4)


def test_golden_floor_as_published_code_reports_it():
    """The tanh decoder and ln σ_1² = ln β̃_2: σ_1 = 0.0073846, ±1/255 is 0.53106 σ_1."""
    beginning = NoiseSchedule.linear().respaced([1, 2, 3])
    variance = FixedLarge(first_is_small=True)
    l_0, _ = floor_bits(beginning, variance, one_level_each(77), decoder=ReferenceDecoder)
    z = 1 / 255 / math.sqrt(5.4532e-5)
    mass = math.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))
    assert float(l_0) == pytest.approx(-math.log2(mass), abs=1e-4)


@pytest.mark.parametrize(
    "variance",
    [FixedLarge(), FixedSmall(), LearnedRange(), Analytic(torch.full((5,), 0.1), torch.full((5,), 0.003))],
    ids=lambda v: type(v).__name__,
)
def test_no_network_is_below_the_floor_in_any_term(variance, tiny_network, images, generator):
    schedule = NoiseSchedule.from_betas([0.001, 0.1, 0.2, 0.6])
    network = tiny_network(out_channels=6 if variance.is_learned else 3)
    reverse = ReverseProcess(network, schedule, variance=variance)
    least, bound = floor(reverse, images), variational_bound(reverse, images, generator=generator)
    assert (least.transitions <= bound.transitions + 1e-12).all()
    assert (least.reconstruction <= bound.reconstruction).all()
    assert (least.total < bound.total).all()
    assert_close(least.prior, bound.prior)
    assert not least.total.requires_grad
    perfect = ReverseProcess(lambda x, clock: images, schedule, X0(), FixedLarge())
    perfectly = variational_bound(perfect, images, generator=generator)
    of_large = floor(perfect, images)
    assert_close(of_large.transitions, perfectly.transitions)
    assert_close(of_large.reconstruction, perfectly.reconstruction)
