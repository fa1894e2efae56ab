"""What a schedule, a variance and a decoder cost whatever the network says."""

import numpy as np
import pytest
import torch

from nelbo import (
    FixedLarge,
    FixedSmall,
    LearnedRange,
    NoiseSchedule,
    ReferenceDecoder,
    ReverseProcess,
    V,
    bits_per_dim,
    floor,
)
from nelbo.data import levels_to_unit
from nelbo.evaluation.floor import floor_on


def never(x_t, clock):
    raise AssertionError("the floor needs no network call")


def pictures(num=5):
    """A third of the values black or white, not as often in each image."""
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (num, 3, 4, 5), dtype=np.uint8)
    images[draw.random(images.shape) < 0.2] = 0
    images[:2][draw.random((2, 3, 4, 5)) < 0.5] = 255
    return images


@pytest.mark.parametrize(
    "reverse",
    [
        ReverseProcess(never, NoiseSchedule.linear(100)),
        ReverseProcess(never, NoiseSchedule.cosine(30), V(), LearnedRange(), clip=False),
        ReverseProcess(never, NoiseSchedule.cosine(30), variance=FixedSmall(), decoder=ReferenceDecoder),
        ReverseProcess(never, NoiseSchedule.from_betas([0.01]), variance=FixedLarge(first_is_small=True)),
        ReverseProcess(never, NoiseSchedule.linear().respaced([3, 50, 1000])),
    ],
    ids=["large", "learned", "reference", "one step", "respaced"],
)
def test_it_is_the_floor_of_these_very_images(reverse):
    """Value by value is image by image: as ``nelbo.bound.floor`` finds on the images themselves."""
    images = pictures()
    bound = floor(reverse, levels_to_unit(torch.from_numpy(images), torch.float64))
    got = floor_on(reverse, images)
    transitions = bits_per_dim(bound.transitions.mean(dim=0), 60)
    assert got.reconstruction == pytest.approx(float(bits_per_dim(bound.reconstruction.mean(), 60)), rel=1e-9)
    assert got.transitions == pytest.approx(float(transitions.sum()), rel=1e-9, abs=1e-12)
    assert got.bits_per_dim == pytest.approx(got.reconstruction + got.transitions, rel=1e-12)
    assert got.steps == pytest.approx([got.reconstruction, *transitions.tolist()], rel=1e-9, abs=1e-12)
    share = sum(value in (0, 255) for value in images.flatten().tolist()) / images.size
    assert got.outer_share == pytest.approx(share, rel=1e-12)
    assert 0.2 < share < 0.6


def test_the_floor_of_ddpm():
    """Linear, T = 1000, σ² = β: 1.71 bits for a grey value, 0.62 for black or white, 0.486 for the steps."""
    got = floor_on(ReverseProcess(never, NoiseSchedule.linear()), pictures())
    assert got.inner == pytest.approx(1.7128, abs=5e-4)
    assert got.outer == pytest.approx(0.6159, abs=5e-4)
    assert got.transitions == pytest.approx(0.4864, abs=5e-4)
    assert len(got.steps) == 1000


@pytest.mark.parametrize("variance", [FixedSmall(), LearnedRange()], ids=["small", "learned"])
def test_the_fine_schedule_has_nearly_none(variance):
    schedule = NoiseSchedule.cosine(1000, s=0.0)
    got = floor_on(ReverseProcess(never, schedule, variance=variance), pictures())
    assert 0 < got.bits_per_dim < 0.006
    assert got.transitions == pytest.approx(0, abs=1e-9)
    large = floor_on(ReverseProcess(never, schedule), pictures())
    assert large.reconstruction < 0.02
    assert large.transitions > 1  # σ² = β is wrong there
