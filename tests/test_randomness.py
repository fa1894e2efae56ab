import math

import pytest
import torch
from scipy import stats
from torch.testing import assert_close

from nelbo import randomness
from nelbo.randomness import Purpose

ITEMS = torch.arange(4)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_known_answers_of_random123(counter, key, expected):
    words = randomness.philox([torch.tensor([c]) for c in counter], key[0] | key[1] << 32)
    assert [int(word) for word in words] == expected


def test_a_draw_depends_on_its_item_alone_not_on_the_batch():
    whole = randomness.normal(7, Purpose.PRIOR, torch.arange(10), (3, 5, 5), step=2)
    part = randomness.normal(7, Purpose.PRIOR, torch.tensor([8, 3]), (3, 5, 5), step=2)
    assert torch.equal(part, whole[[8, 3]])


def test_seed_purpose_step_and_item_each_change_the_draw():
    def draw(seed=1, purpose=Purpose.PRIOR, items=ITEMS, step=0):
        return randomness.normal(seed, purpose, items, (8,), step=step)

    others = [
        draw(seed=2), draw(seed=1 + 2**32), draw(purpose=Purpose.ORDER), draw(items=ITEMS + 4),
        draw(items=ITEMS + 2**32), draw(step=1),
    ]  # fmt: skip
    for other in others:
        assert not torch.isclose(draw(), other).any()


def test_the_items_of_a_batch_and_the_numbers_of_an_item_are_normal_and_uncorrelated():
    draws = randomness.normal(3, Purpose.FORWARD_NOISE, torch.arange(400), (500,), dtype=torch.float64)
    assert stats.kstest(draws.flatten().numpy(), "norm").pvalue > 1e-3
    correlation = torch.corrcoef(draws[:, :100].T) - torch.eye(100)
    assert correlation.abs().max() < 5.5 / math.sqrt(400)
    assert torch.corrcoef(draws[:100]).fill_diagonal_(0).abs().max() < 5.5 / math.sqrt(500)


def test_float32_is_finite_at_the_extreme_words():
    assert math.isfinite(math.sqrt(-2 * torch.log((torch.tensor([0.0]) + 0.5) * 2.0**-32)))
    draws = randomness.normal(3, Purpose.PRIOR, torch.arange(200), (3, 64, 64))
    assert torch.isfinite(draws).all()
    assert 4.5 < draws.abs().max() < 6.8


def test_uniform_is_uniform_on_0_1():
    draws = randomness.uniform(5, Purpose.TIMESTEP, torch.arange(20000))
    assert draws.min() >= 0
    assert draws.max() < 1
    assert stats.kstest(draws.numpy(), "uniform").pvalue > 1e-3


def test_a_permutation_visits_everything_once_and_changes_with_the_epoch():
    first, second = randomness.permutation(0, 0, 100), randomness.permutation(0, 1, 100)
    assert_close(first.sort().values, torch.arange(100))
    assert not torch.equal(first, second)
    assert torch.equal(first, randomness.permutation(0, 0, 100))


def test_randn_follows_the_generator_and_is_float32_or_better(generator):
    like = torch.zeros(3, 2, dtype=torch.bfloat16)
    draw = randomness.randn(like, generator=generator)
    assert draw.dtype == torch.float32
    assert torch.equal(draw, torch.randn(3, 2, generator=torch.Generator().manual_seed(0)))
