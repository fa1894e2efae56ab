"""One round: a draw from every slot for every image, and what each is worth."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from nelbo import (
    FixedSmall,
    NoiseSchedule,
    ReferenceDecoder,
    ReverseProcess,
    bound_term,
    randomness,
    variational_bound,
)
from nelbo.data import levels_to_unit
from nelbo.evaluation.plan import Plan, every_step, geometric
from nelbo.evaluation.sweep import one_round, priors
from nelbo.randomness import Purpose

SCHEDULE = NoiseSchedule.linear(20, 1e-3, 0.6)
PLAN = Plan(((1, 1), (1, 1), (2, 4), (5, 20)), torch.arange(1, 22, dtype=torch.float64))


def pictures(num, shape=(3, 4, 4), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num, *shape), dtype=np.uint8)


class Watching(nn.Module):
    """A network that keeps what it was shown."""

    def __init__(self, network):
        super().__init__()
        self.network, self.seen, self.clocks = network, [], []

    def forward(self, x_t, clock):
        self.seen.append(x_t)
        self.clocks.append(clock)
        return self.network(x_t, clock)


def test_two_variants_share_every_network_call(tiny_network):
    """Each gets what it would get alone, for the calls of one."""
    network = Watching(tiny_network())
    large = ReverseProcess(network, SCHEDULE).eval()
    variants = {
        "large": large,
        "small": large.with_variance(FixedSmall()),
        "reference": large.with_decoder(ReferenceDecoder),
    }
    images = pictures(5)
    alone = {name: one_round({name: it}, images, PLAN, number=1, seed=7) for name, it in variants.items()}
    calls_alone, network.seen = len(network.seen) // 3, []
    both = one_round(variants, images, PLAN, number=1, seed=7)
    assert len(network.seen) == calls_alone
    assert sum(map(len, network.seen)) == 5 * 4
    for name, only in alone.items():
        assert torch.equal(both.terms[name], only.terms[name])
        assert torch.equal(both.totals(name), only.totals(name))
        for field in ("images", "t", "weights", "errors"):
            assert torch.equal(getattr(both, field), getattr(only, field))
    assert not torch.equal(both.terms["large"], both.terms["small"])
    is_first = both.t == 1
    assert not (both.terms["large"] == both.terms["reference"])[is_first].any()
    assert (both.terms["large"] == both.terms["reference"])[~is_first].all()


@pytest.mark.parametrize("chosen", [None, [3, 0, 4]])
@torch.no_grad()
def test_terms_and_errors_are_those_of_the_drawn_steps_and_noise(tiny_network, chosen):
    """What the network was shown tells the noise; the model itself then tells every term."""
    network = Watching(tiny_network())
    reverse = ReverseProcess(network, SCHEDULE, variance=FixedSmall()).eval()
    images = pictures(5)
    got = one_round({"": reverse}, images, PLAN, number=0, chosen=chosen, batch_size=3)
    which = [0, 1, 2, 3, 4] if chosen is None else chosen
    assert got.images.tolist() == which
    shown, steps = torch.cat(network.seen).double(), torch.cat(network.clocks) + 1
    assert shown.dtype == torch.float64
    for column in range(4):
        for row, image in enumerate(which):
            place = column * len(which) + row
            t = int(got.t[row, column])
            assert steps[place] == t
            first, last = PLAN.slots[column]
            assert first <= t <= last
            x_0 = levels_to_unit(torch.from_numpy(images[image : image + 1]), torch.float64)
            x_t = shown[place][None]
            ab = SCHEDULE.alphas_bar[t]
            eps = (x_t - ab.sqrt() * x_0) / (1 - ab).sqrt()
            expected = float(bound_term(reverse, x_0, eps, t)) / 48 / np.log(2)
            assert float(got.terms[""][row, column]) == pytest.approx(expected, rel=1e-7)
            error = float((x_0 - reverse.predict(x_t, t).x_0).square().mean())
            assert float(got.errors[row, column]) == pytest.approx(error, rel=1e-7)
    assert_close(got.totals(""), (got.weights * got.terms[""]).sum(dim=1), rtol=0, atol=0)


def test_on_errors_is_told_of_every_draw(tiny_network):
    told, counted = [], []
    got = one_round(
        {"": ReverseProcess(tiny_network(), SCHEDULE).eval()},
        pictures(5),
        PLAN,
        number=0,
        batch_size=7,
        on_errors=lambda *batch: told.append(batch),
        on_batch=counted.append,
    )
    t, x_0, residual = (torch.cat(parts) for parts in zip(*told))
    assert counted == [7, 7, 6] == [len(batch[0]) for batch in told]
    assert torch.equal(t, got.t.T.flatten())
    assert_close(x_0, levels_to_unit(torch.from_numpy(pictures(5)), torch.float64).repeat(4, 1, 1, 1))
    assert_close(residual.square().mean(dim=(1, 2, 3)), got.errors.T.flatten())


def test_over_many_rounds_the_mean_is_the_bound(tiny_network):
    """Every image at every step against draws of the whole bound, which is T other calls."""
    reverse = ReverseProcess(tiny_network(), SCHEDULE).eval()
    images = np.repeat(pictures(2), 300, axis=0)
    got = one_round({"": reverse}, images, every_step(20), number=0, batch_size=20_000)
    x_0 = levels_to_unit(torch.from_numpy(images), torch.float64)
    bound = variational_bound(reverse, x_0, generator=torch.Generator().manual_seed(1))
    nats = torch.cat([bound.reconstruction[:, None], bound.transitions], dim=1) / 48 / np.log(2)
    for rows in (slice(0, 300), slice(300, 600)):
        error = (got.terms[""][rows].var(dim=0) + nats[rows].var(dim=0)).div(300).sqrt()
        away = (got.terms[""][rows].mean(dim=0) - nats[rows].mean(dim=0)) / error
        assert away.abs().max() < 4  # of 20 normal ones


def noises(images, **options):
    """The noise of every draw, (draws, d), and its steps."""
    network = Watching(lambda x_t, clock: torch.zeros_like(x_t))
    plan = options.pop("plan", every_step(20))
    one_round({"": ReverseProcess(network, SCHEDULE)}, images, plan, **{"number": 0, **options})
    t = torch.cat(network.clocks) + 1
    ab = SCHEDULE.alphas_bar[t][:, None]
    owners = np.tile(options.get("chosen") or range(len(images)), len(plan.slots))
    x_0 = levels_to_unit(torch.from_numpy(images[owners]), torch.float64).flatten(1)
    return (torch.cat(network.seen).flatten(1) - ab.sqrt() * x_0) / (1 - ab).sqrt()


def test_every_image_slot_round_seed_and_pilot_draws_noise_of_its_own():
    """Standard normal, and no two alike: of 768 values each, a correlation has the standard error 0.036."""
    images = np.repeat(pictures(1, (3, 16, 16)), 2, axis=0)
    drawn = [
        noises(images),
        noises(images, number=1),
        noises(images, seed=1),
        noises(images, is_pilot=True),
        noises(images, number=1, is_pilot=True),
    ]
    together = torch.cat(drawn)
    assert len(together) == 5 * 2 * 20
    correlations = torch.corrcoef(together) - torch.eye(len(together), dtype=torch.float64)
    assert correlations.abs().max() < 5.5 * 0.036
    assert (together.std(dim=1) - 1).abs().max() < 5 * 0.026
    assert torch.equal(noises(images, batch_size=1), drawn[0])


def test_an_image_draws_by_its_index_alone():
    images = pictures(6, (1, 2, 2))
    whole = noises(images).reshape(20, 6, 4)
    some = noises(images, chosen=[5, 2]).reshape(20, 2, 4)
    assert torch.equal(some, whole[:, [5, 2]])
    fewer = noises(images[:3]).reshape(20, 3, 4)
    assert torch.equal(fewer, whole[:, :3])


def test_steps_too_are_drawn_anew_and_with_the_plans_density(tiny_network):
    reverse = ReverseProcess(tiny_network(channels=1), SCHEDULE).eval()
    images = pictures(3000, (1, 1, 1))
    rounds = [
        one_round({"": reverse}, images, PLAN, batch_size=12_000, **options)
        for options in (
            {"number": 0},
            {"number": 1},
            {"number": 0, "seed": 1},
            {"number": 0, "is_pilot": True},
        )
    ]
    for i, one in enumerate(rounds):
        for column, (first, last) in enumerate(PLAN.slots):
            counts = np.bincount(one.t[:, column], minlength=21)[first : last + 1]
            expected = PLAN.density[first : last + 1] / PLAN.density[first : last + 1].sum() * 3000
            assert counts.sum() == 3000
            # χ² with 15 degrees of freedom at most: 37.7 is its 0.999 quantile.
            assert ((counts - expected.numpy()) ** 2 / expected.numpy()).sum() < 37.7
        for other in rounds[:i]:
            pairs = torch.corrcoef(torch.stack([one.t[:, 3], other.t[:, 3]]).double())
            assert abs(float(pairs[0, 1])) < 5 / 3000**0.5
    within = torch.corrcoef(rounds[0].t[:, 2:].T.double())
    assert abs(float(within[0, 1])) < 5 / 3000**0.5


def test_steps_and_noise_share_no_number():
    """The uniform number of a draw is no function of its noise."""
    items = torch.arange(4000)
    u = randomness.uniform(0, Purpose.EVALUATION_TIMESTEP, items)
    eps = randomness.normal(0, Purpose.EVALUATION_NOISE, items, (4,), dtype=torch.float64)
    table = torch.cat([u[None], eps.T, eps.T.square()])
    assert (torch.corrcoef(table)[0, 1:].abs() < 5 / 4000**0.5).all()


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_batch_size_changes_nothing_but_rounding(tiny_network, batch_size):
    reverse = ReverseProcess(tiny_network(), SCHEDULE).eval()
    whole = one_round({"": reverse}, pictures(7), geometric(20, 6), number=0)
    parts = one_round({"": reverse}, pictures(7), geometric(20, 6), number=0, batch_size=batch_size)
    assert torch.equal(parts.t, whole.t)
    assert_close(parts.terms[""], whole.terms[""], rtol=1e-9, atol=0)
    assert_close(priors(reverse, pictures(7), batch_size), priors(reverse, pictures(7)), rtol=1e-12, atol=0)


def test_priors_are_l_t_without_a_network_call(tiny_network):
    network = Watching(tiny_network())
    reverse = ReverseProcess(network, SCHEDULE)
    images = pictures(5)
    bound = variational_bound(reverse, levels_to_unit(torch.from_numpy(images), torch.float64))
    network.seen = []
    assert_close(priors(reverse, images, 2), (bound.prior / 48 / np.log(2)), rtol=1e-6, atol=0)
    assert network.seen == []


def test_a_float32_network_is_scored_in_float32_and_a_float64_one_in_float64(tiny_network):
    single, double = Watching(tiny_network().float()), Watching(tiny_network())
    double.load_state_dict({name: value.double() for name, value in single.state_dict().items()})
    ours, expected = (
        one_round({"": ReverseProcess(network, SCHEDULE)}, pictures(4), PLAN, number=0)
        for network in (single, double)
    )
    assert [network.seen[0].dtype for network in (single, double)] == [torch.float32, torch.float64]
    assert_close(ours.terms[""], expected.terms[""], rtol=1e-3, atol=1e-6)
    assert ours.terms[""].dtype == ours.errors.dtype == torch.float64
