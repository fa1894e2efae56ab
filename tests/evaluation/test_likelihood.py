"""The estimator: unbiased, with two error bars that mean what they say."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import nn
from torch.testing import assert_close

from exact import ExactVariance, GaussianData
from nelbo import FixedSmall, NoiseSchedule, ReverseProcess, variational_bound
from nelbo.bound import bound_term_of, prior_term
from nelbo.data import levels_to_unit
from nelbo.evaluation import likelihood
from nelbo.evaluation.likelihood import estimate_likelihood, estimate_variants, pilot_plan
from nelbo.evaluation.plan import Plan, geometric

T = 20
SCHEDULE = NoiseSchedule.linear(T, 1e-3, 0.6)
GAUSSIAN = GaussianData(NoiseSchedule.linear(50))


def pictures(num, shape=(3, 4, 4), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num, *shape), dtype=np.uint8)


@pytest.fixture
def reverse(tiny_network):
    return ReverseProcess(tiny_network(), SCHEDULE).eval()


class Watching(nn.Module):
    """A network that keeps what it was shown."""

    def __init__(self, network):
        super().__init__()
        self.network, self.seen, self.steps = network, [], []

    def forward(self, x_t, clock):
        self.seen.append(x_t)
        self.steps.extend((clock + 1).tolist())
        return self.network(x_t, clock)


@pytest.mark.parametrize("variance", [None, ExactVariance()], ids=["large", "exact"])
@pytest.mark.parametrize("t", [0, 1, 2, 17, 50])
def test_the_closed_forms_of_gaussian_data_are_the_mean_of_draws(t, variance):
    """Of 2,000 draws for every level: (mean − closed form)/error has the mean 0 ± 1/16 and the spread 1."""
    reverse = GAUSSIAN.reverse(variance)
    x_0 = levels_to_unit(torch.arange(256).repeat(2000), torch.float64)[:, None]
    every = torch.arange(51)
    variances = reverse.variance.log_variance(GAUSSIAN.schedule, every, every[:, None].double(), None).exp()
    closed = GAUSSIAN.bound_by_level(variances.flatten())[:, t]
    if t == 0:
        assert_close(prior_term(reverse, x_0[:256]) / math.log(2), closed, rtol=1e-9, atol=1e-12)
        return
    x_t = reverse.forward_process.q_marginal(x_0, t).sample(generator=torch.Generator().manual_seed(t))
    prediction = reverse.predict(x_t, t)
    terms = bound_term_of(reverse, prediction, x_0, x_t, t).reshape(2000, 256) / math.log(2)
    errors = (x_0 - prediction.x_0).square().reshape(2000, 256)
    for drawn, expected in ((terms, closed), (errors, GAUSSIAN.errors_by_level()[:, t])):
        away = (drawn.mean(dim=0) - expected) / drawn.std(dim=0) * 2000**0.5
        assert abs(float(away.mean())) < 4 / 16
        assert float(away.std()) == pytest.approx(1, abs=0.2)


def test_the_levels_of_gaussian_data_are_drawn_as_often_as_said():
    counts = np.bincount(GAUSSIAN.images(100_000, (1,), 0).flatten(), minlength=256)
    expected = 100_000 * GAUSSIAN.level_probabilities().numpy()
    # χ² with 255 degrees of freedom: 330.5 is its 0.999 quantile.
    assert ((counts - expected) ** 2 / expected).sum() < 330.5
    assert expected.sum() == pytest.approx(100_000)


REPETITIONS, NUM = 200, 50


def repeated(estimate_of):
    """(error of the value, its standard error, whether the interval covers) of every repetition."""
    return (np.array(column) for column in zip(*map(estimate_of, range(REPETITIONS))))


def check_coverage(away, errors, covered):
    """95 % intervals, 200 times; means and squared errors besides, which are sharper still."""
    assert covered.mean() >= 0.93
    assert covered.mean() <= 0.99
    assert abs(away.mean()) < 4 * away.std() / REPETITIONS**0.5
    # The ratio of two standard deviations, one of them from 200 values: 1 ± 0.05.
    assert away.std() / np.sqrt((errors**2).mean()) == pytest.approx(1, abs=0.15)


def test_the_interval_covers_the_mean_of_these_very_images():
    """Fixed images, 200 seeds; the truth is in closed form."""
    reverse, images = GAUSSIAN.reverse(), GAUSSIAN.images(NUM, (1, 2, 2), seed=10**6)
    by_level = GAUSSIAN.bound_by_level(GAUSSIAN.schedule.betas).sum(dim=1)
    truth = float(by_level[torch.from_numpy(images).long()].mean())

    def estimate_of(seed):
        got = estimate_likelihood(reverse, images, evaluations_per_image=8, seed=seed, batch_size=4096)
        away = got.bits_per_dim - truth
        return away, got.total.sampling_error, abs(away) <= got.half_width

    check_coverage(*repeated(estimate_of))


def test_the_interval_covers_the_mean_of_the_population():
    """New images each time; the truth is the mean over the levels that they are drawn from."""
    reverse = GAUSSIAN.reverse()
    by_level = GAUSSIAN.bound_by_level(GAUSSIAN.schedule.betas).sum(dim=1)
    truth = float(GAUSSIAN.level_probabilities() @ by_level)

    def estimate_of(seed):
        images = GAUSSIAN.images(NUM, (1, 2, 2), seed=seed)
        got = estimate_likelihood(reverse, images, evaluations_per_image=8, seed=seed, batch_size=4096)
        away = got.bits_per_dim - truth
        return away, got.standard_error, abs(away) <= got.population_half_width

    check_coverage(*repeated(estimate_of))


@pytest.mark.parametrize(("options", "within"), [
    ({"evaluations_per_image": 2}, 0.08),
    ({"evaluations_per_image": 3}, 0.05),
    ({"evaluations_per_image": 9}, 0.03),
    ({"evaluations_per_image": 30}, 0.02),
    ({"evaluations_per_image": 2 * T}, 0.01),
    ({"exact": True}, 0.01),
])  # fmt: skip
def test_every_part_is_unbiased(reverse, options, within):
    """1,000 estimates of one image and 1,000 draws of its whole bound: each part differs by less than 4 σ."""
    images = np.repeat(pictures(1), 1000, axis=0)
    got = estimate_likelihood(reverse, images, batch_size=2000, **options)
    x_0 = levels_to_unit(torch.from_numpy(images), torch.float64)
    bound = variational_bound(reverse, x_0, generator=torch.Generator().manual_seed(1))
    whole = {
        "total": bound.bits_per_dim,
        "transitions": bound.transitions.sum(dim=1) / (48 * math.log(2)),
        "reconstruction": bound.reconstruction / (48 * math.log(2)),
    }
    for part, drawn in whole.items():
        figure = getattr(got, part)
        error = math.hypot(figure.population_error, float(drawn.std()) / 1000**0.5)
        assert abs(figure.value - float(drawn.mean())) < 4 * error
        assert error < within * figure.value  # else the test would see nothing
    assert got.prior.value == pytest.approx(float(bound.prior[0]) / (48 * math.log(2)), rel=1e-9)


def test_a_few_draws_agree_with_all_of_them(reverse):
    images = pictures(30)
    few = estimate_likelihood(reverse, images, evaluations_per_image=8)
    whole = estimate_likelihood(reverse, images, exact=True, seed=1)
    error = math.hypot(few.total.sampling_error, whole.total.sampling_error)
    assert abs(few.bits_per_dim - whole.bits_per_dim) < 4 * error < 0.1 * whole.bits_per_dim


def by_hand(values, owners, num_images):
    """The mean, the error over these images, that over the population, the degrees of freedom: one by one."""
    of = [values[owners == i] for i in range(num_images)]
    means = np.array([rows.mean() for rows in of])
    degrees = sum(len(rows) - 1 for rows in of)
    within = sum(((rows - rows.mean()) ** 2).sum() for rows in of) / degrees
    sampling = math.sqrt(sum(within / len(rows) for rows in of)) / num_images
    return means, sampling, means.std(ddof=1) / math.sqrt(num_images), degrees


@pytest.mark.parametrize("options", [{"evaluations_per_image": 7}, {"exact": True}, {"precision": 0.15}])
def test_the_figures_are_those_of_the_rounds(reverse, options):
    images = pictures(25)
    got = estimate_likelihood(reverse, images, **options)
    owners = np.concatenate([r.images for r in got.rounds])
    scored = np.concatenate([r.weights * r.terms[""] for r in got.rounds])
    first = np.array(
        [slot_first == 1 for slot_first in np.concatenate([r.t for r in got.rounds]).min(axis=0)]
    )
    assert (np.concatenate([r.t for r in got.rounds])[:, first] == 1).all()
    prior = got.priors.numpy()
    for part, columns, exact_part in (
        ("total", slice(None), prior),
        ("transitions", ~first, 0 * prior),
        ("reconstruction", first, 0 * prior),
    ):
        values = scored[:, columns].sum(axis=1) + exact_part[owners]
        means, sampling, population, degrees = by_hand(values, owners, 25)
        figure = getattr(got, part)
        assert figure.value == pytest.approx(means.mean(), rel=1e-12)
        assert figure.sampling_error == pytest.approx(sampling, rel=1e-9)
        assert figure.population_error == pytest.approx(population, rel=1e-9)
        if part == "total":
            assert got.per_image.numpy() == pytest.approx(means, rel=1e-12)
            quantile = scipy.stats.t.ppf(0.975, degrees)
            assert got.half_width == pytest.approx(quantile * sampling, rel=2e-3)
            assert got.population_half_width == pytest.approx(scipy.stats.t.ppf(0.975, 24) * population, 2e-3)
    assert got.prior.value == pytest.approx(prior.mean(), rel=1e-12)
    assert got.prior.sampling_error == 0
    assert got.prior.population_error == pytest.approx(prior.std(ddof=1) / 5, rel=1e-9)
    assert (got.num_images, got.num_rounds) == (25, len(got.rounds))
    assert (got.bits_per_dim, got.standard_error) == (got.total.value, got.total.population_error)


@pytest.mark.parametrize("options", [{"evaluations_per_image": 11}, {"exact": True}])
def test_the_parts_and_the_steps_add_up(reverse, options):
    got = estimate_likelihood(reverse, pictures(9), **options)
    parts = got.prior.value + got.transitions.value + got.reconstruction.value
    assert parts == pytest.approx(got.bits_per_dim, rel=1e-12)
    assert [t for s in got.steps for t in range(s.first, s.last + 1)] == list(range(1, T + 1))
    by_step = sum(s.bits_per_dim * (s.last - s.first + 1) for s in got.steps)
    assert by_step + got.prior.value == pytest.approx(got.bits_per_dim, rel=1e-12)
    assert got.steps[0].bits_per_dim == got.reconstruction.value
    assert got.steps[0].sampling_error == got.reconstruction.sampling_error > 0
    assert got.steps[0].standard_error == got.reconstruction.population_error > 0
    assert sum(s.draws for s in got.steps) == got.network_evaluations - got.pilot_evaluations
    drawn = torch.cat([r.t.flatten() for r in got.rounds])
    for step in got.steps:
        assert step.draws == int(((drawn >= step.first) & (drawn <= step.last)).sum())


def test_a_step_costs_what_it_costs(reverse):
    """The mean of one term within a range, against draws of every term of it."""
    images = np.repeat(pictures(1), 1000, axis=0)
    got = estimate_likelihood(reverse, images, evaluations_per_image=12, batch_size=4000)
    x_0 = levels_to_unit(torch.from_numpy(images), torch.float64)
    terms = variational_bound(reverse, x_0, generator=torch.Generator().manual_seed(1)).transitions
    assert any(step.last > step.first for step in got.steps)
    for step in got.steps[1:]:
        drawn = terms[:, step.first - 2 : step.last - 1].mean(dim=1) / (48 * math.log(2))
        error = math.hypot(step.standard_error, float(drawn.std()) / 1000**0.5)
        assert abs(step.bits_per_dim - float(drawn.mean())) < 4 * error < 0.2 * step.bits_per_dim


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_batch_size_changes_nothing_but_rounding(reverse, batch_size):
    images = pictures(7)
    whole = estimate_likelihood(reverse, images, evaluations_per_image=6, batch_size=1000)
    parts = estimate_likelihood(reverse, images, evaluations_per_image=6, batch_size=batch_size)
    assert_close(parts.per_image, whole.per_image, rtol=1e-9, atol=0)
    assert parts.standard_error == pytest.approx(whole.standard_error, rel=1e-9)
    assert parts.half_width == pytest.approx(whole.half_width, rel=1e-9)


def test_every_image_round_and_seed_draws_its_own_and_again_the_same(reverse):
    same = np.repeat(pictures(1), 5, axis=0)
    estimates = [estimate_likelihood(reverse, same, evaluations_per_image=8, seed=seed) for seed in (0, 1, 0)]
    for got in estimates:
        assert len(set(torch.cat([r.totals("") for r in got.rounds]).tolist())) == 10
    assert not set(estimates[0].per_image.tolist()) & set(estimates[1].per_image.tolist())
    assert torch.equal(estimates[0].per_image, estimates[2].per_image)
    assert estimates[0].total == estimates[2].total


@pytest.mark.parametrize(
    ("evaluations", "calls", "pilot"),
    [(2, 2, 200), (3, 3, 200), (4, 4, 200), (11, 10, 200), (40, 40, 0), (99, 40, 0)],
)
def test_network_evaluations_are_counted_as_they_happen(tiny_network, evaluations, calls, pilot):
    """A pilot is two rounds of all 20 slots over the 5 images; where every step is drawn there is none."""
    network, reported = Watching(tiny_network().float()), []
    got = estimate_likelihood(
        ReverseProcess(network, SCHEDULE),
        pictures(5),
        evaluations_per_image=evaluations,
        batch_size=7,
        on_batch=reported.append,
    )
    assert sum(map(len, network.seen)) == sum(reported) == got.network_evaluations == 5 * calls + pilot
    assert got.pilot_evaluations == pilot
    assert got.num_rounds == (2 if evaluations >= 4 else 1)


def test_the_pilot_takes_a_few_images_from_the_whole_set(tiny_network):
    network = Watching(tiny_network(channels=1))
    reverse = ReverseProcess(network, NoiseSchedule.linear(1000))
    images = np.arange(200, dtype=np.uint8).reshape(200, 1, 1, 1) + 20
    _, evaluations = pilot_plan(reverse, images, 8)
    assert evaluations == len(network.steps) == 16 * 24 * 2
    near = torch.cat(network.seen)[torch.tensor(network.steps) < 2].flatten()  # x_1 is nearly x_0
    levels = ((near + 1) * 127.5 - 20).reshape(2, 16)
    assert_close(levels, torch.linspace(0, 199, 16).double().expand(2, 16), rtol=0, atol=6)


def test_the_pilot_decides_only_where_to_look(reverse):
    images = pictures(6)
    plan, evaluations = pilot_plan(reverse, images, 4, seed=3)
    alone = estimate_likelihood(reverse, images, evaluations_per_image=8, seed=3)
    given = estimate_likelihood(reverse, images, evaluations_per_image=8, seed=3, plan=plan)
    assert len(plan.slots) == 4
    assert torch.equal(given.per_image, alone.per_image)
    assert given.total == alone.total
    assert (alone.pilot_evaluations, given.pilot_evaluations) == (evaluations, 0)
    assert alone.network_evaluations - given.network_evaluations == evaluations == 2 * 6 * T


def test_no_noise_is_drawn_twice_not_even_by_the_pilot():
    network = Watching(lambda x_t, clock: torch.zeros_like(x_t))
    images = np.full((6, 1, 2, 2), 128, dtype=np.uint8)
    estimate_likelihood(ReverseProcess(network, SCHEDULE), images, evaluations_per_image=12)
    ab = SCHEDULE.alphas_bar[network.steps].reshape(-1, 1)
    eps = (torch.cat(network.seen).flatten(1) - ab.sqrt() / 255) / (1 - ab).sqrt()
    assert len(torch.unique((eps * 1000).round(), dim=0)) == len(eps) == 6 * 12 + 2 * 6 * T


def test_exact_leaves_no_step_out(tiny_network):
    network = Watching(tiny_network())
    got = estimate_likelihood(ReverseProcess(network, SCHEDULE), pictures(40, (3, 2, 2)), exact=True)
    assert got.num_rounds == 2
    first, second = got.rounds
    assert torch.equal(first.t, torch.arange(1, T + 1).expand(40, T))
    assert first.images.tolist() == list(range(40))
    assert second.images.tolist() == np.linspace(0, 39, 16).round().tolist()
    assert torch.equal(first.weights, torch.ones(40, T, dtype=torch.float64))
    assert got.network_evaluations == len(network.steps) == (40 + 16) * T
    assert got.pilot_evaluations == 0
    assert [(s.first, s.last) for s in got.steps] == [(t, t) for t in range(1, T + 1)]
    assert got.half_width == pytest.approx(scipy.stats.t.ppf(0.975, 16) * got.total.sampling_error, rel=2e-3)
    many = estimate_likelihood(ReverseProcess(network, SCHEDULE), pictures(200, (3, 1, 1)), exact=True)
    assert len(many.rounds[1].images) == 20


def test_precision_goes_on_until_it_is_reached(reverse):
    images = pictures(8)
    start = estimate_likelihood(reverse, images, evaluations_per_image=8)
    precision = start.half_width / 3
    got = estimate_likelihood(reverse, images, evaluations_per_image=8, precision=precision)
    assert got.num_rounds > 4
    assert got.half_width <= precision
    before = got.rounds[:-1]
    _, sampling, _, degrees = by_hand(
        np.concatenate([r.totals("") for r in before]), np.concatenate([r.images for r in before]), 8
    )
    assert scipy.stats.t.ppf(0.975, degrees) * sampling > precision
    assert torch.equal(got.rounds[0].terms[""], start.rounds[0].terms[""])
    totals = torch.stack([r.totals("") for r in got.rounds])
    assert len(totals.unique()) == totals.numel()
    assert got.network_evaluations == got.pilot_evaluations + 8 * 4 * got.num_rounds
    easy = estimate_likelihood(reverse, images, evaluations_per_image=8, precision=99.0)
    assert easy.num_rounds == 2
    once = estimate_likelihood(reverse, images, evaluations_per_image=2, precision=99.0)
    assert once.num_rounds == 2  # one round knows no error


def test_precision_works_with_exact(reverse):
    images = pictures(40, (3, 2, 2))
    start = estimate_likelihood(reverse, images, exact=True)
    got = estimate_likelihood(reverse, images, exact=True, precision=start.half_width / 1.5)
    assert got.half_width <= start.half_width / 1.5
    assert [len(r.images) for r in got.rounds[:3]] == [40, 16, 40]
    assert not torch.equal(got.rounds[2].terms[""], got.rounds[0].terms[""])


def test_an_impossible_precision_is_refused(reverse, monkeypatch):
    monkeypatch.setattr(likelihood, "_MAX_ROUNDS", 5)
    with pytest.raises(
        ValueError,
        match=r"^a half-width of 1e-09 bits/dim is out of reach: 5 rounds came to .*; ask for less$",
    ):
        estimate_likelihood(reverse, pictures(3), evaluations_per_image=4, precision=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": pictures(0)}, "^there is no image to evaluate on; give --data, or hold some out"),
        ({"evaluations_per_image": 1}, "^evaluations per image is 1; give at least 2: L_0 and one more"),
        ({"evaluations_per_image": 0}, "^evaluations per image is 0; give at least 2"),
        ({"batch_size": 0}, "^batch size is 0; give at least 1"),
        ({"precision": 0.0}, "^precision is 0; give the half-width to reach, in bits/dim, such as 0.01"),
        ({"precision": -0.1}, "^precision is -0.1; give the half-width"),
        ({"precision": math.nan}, "^precision is nan; give the half-width"),
        ({"precision": math.inf}, "^precision is inf; give the half-width"),
    ],
)
def test_what_cannot_be_estimated_is_refused(reverse, options, message):
    with pytest.raises(ValueError, match=message):
        estimate_likelihood(reverse, **{"images": pictures(2), **options})


def test_of_one_image_the_sampling_error_is_known_and_the_population_unknown(reverse):
    got = estimate_likelihood(reverse, pictures(1), evaluations_per_image=8)
    assert math.isnan(got.standard_error)
    assert math.isnan(got.population_half_width)
    assert math.isnan(got.prior.population_error)
    one, other = (float(r.totals("")) for r in got.rounds)
    assert got.total.sampling_error == pytest.approx(abs(one - other) / 2, rel=1e-9)
    assert got.half_width == pytest.approx(12.7062 * abs(one - other) / 2, rel=1e-6)
    assert got.bits_per_dim == float(got.per_image[0])


def test_of_one_round_the_sampling_error_is_unknown_and_the_population_known(reverse):
    got = estimate_likelihood(reverse, pictures(6), evaluations_per_image=3)
    assert math.isnan(got.total.sampling_error)
    assert math.isnan(got.half_width)
    assert got.standard_error == pytest.approx(float(got.per_image.std()) / 6**0.5, rel=1e-12)


def test_short_chains(tiny_network):
    one = estimate_likelihood(
        ReverseProcess(tiny_network(), NoiseSchedule.from_betas([0.5])), pictures(4), evaluations_per_image=1
    )
    assert one.transitions.value == 0
    assert one.network_evaluations == 4
    assert one.prior.value + one.reconstruction.value == pytest.approx(one.bits_per_dim, rel=1e-12)
    assert [(s.first, s.last) for s in one.steps] == [(1, 1)]
    two = ReverseProcess(tiny_network(), NoiseSchedule.from_betas([0.1, 0.5]))
    assert estimate_likelihood(two, pictures(4), evaluations_per_image=2).network_evaluations == 8
    three = ReverseProcess(tiny_network(), NoiseSchedule.from_betas([0.1, 0.3, 0.5]))
    got = estimate_likelihood(three, pictures(4), evaluations_per_image=4)
    assert got.network_evaluations == 4 * 4 + got.pilot_evaluations
    assert [(s.first, s.last) for s in got.steps] == [(1, 1), (2, 3)]


def test_a_pilot_finds_a_better_plan_than_knowing_nothing():
    """T = 1000 of the linear schedule: as many draws, less error."""
    reverse = GaussianData(NoiseSchedule.linear(), 0.0, 0.2).reverse()
    images = GaussianData(reverse.schedule, 0.0, 0.2).images(100, (1, 4, 4), 0)
    blind = estimate_likelihood(
        reverse, images, evaluations_per_image=16, plan=geometric(1000, 8), batch_size=4096
    )
    found = estimate_likelihood(reverse, images, evaluations_per_image=16, batch_size=4096)
    assert found.total.sampling_error < 0.8 * blind.total.sampling_error


def test_variants_are_judged_on_one_sweep(tiny_network):
    """The network is called once for both; each gets what it would get alone on the same plan."""
    network, told = Watching(tiny_network()), []
    large = ReverseProcess(network, SCHEDULE).eval()
    variants = {"large": large, "small": large.with_variance(FixedSmall())}
    got = estimate_variants(
        variants, pictures(6), evaluations_per_image=8, on_errors=lambda t, *_: told.extend(t.tolist())
    )
    assert len(network.steps) == got["large"].network_evaluations == got["small"].network_evaluations
    assert sorted(told) == sorted(network.steps[got["large"].pilot_evaluations :])
    plan, _ = pilot_plan(large, pictures(6), 4)
    for name, variant in variants.items():
        alone = estimate_likelihood(variant, pictures(6), evaluations_per_image=8, plan=plan)
        assert got[name].total == alone.total
        assert got[name].steps == alone.steps
        assert got[name].variant == name
    assert got["small"].total != got["large"].total


def test_a_plan_may_draw_l_0_more_often(reverse):
    plan = Plan(((1, 1),) * 3 + ((2, 20),), torch.ones(21, dtype=torch.float64))
    got = estimate_likelihood(reverse, pictures(5), evaluations_per_image=8, plan=plan)
    l_0 = torch.stack([r.terms[""][:, :3].mean(dim=1) for r in got.rounds]).mean()
    assert got.reconstruction.value == pytest.approx(float(l_0), rel=1e-12)
    assert got.steps[0].draws == 5 * 2 * 3
    assert [(s.first, s.last) for s in got.steps] == [(1, 1), (2, 20)]
