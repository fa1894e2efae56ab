"""The decoder of published code, against that formula in plain Python, pixel by pixel."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from nelbo import DiscretizedGaussian, ReferenceDecoder

LEVELS = torch.arange(256, dtype=torch.float64) / 127.5 - 1


def f64(value):
    return torch.tensor(value, dtype=torch.float64)


def published(x, mean, log_scale):
    """One pixel, in nats."""

    def cdf(z):
        return 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))

    plus, minus = (cdf((x - mean + sign / 255) / np.exp(log_scale)) for sign in (1, -1))
    if x < -0.999:
        return np.log(max(plus, 1e-12))
    if x > 0.999:
        return np.log(max(1 - minus, 1e-12))
    return np.log(max(plus - minus, 1e-12))


@pytest.mark.parametrize("std", [0.002, 0.01, 0.3])
@pytest.mark.parametrize("mean", [-1.02, 0.123, 0.9])
def test_every_level_as_published_code_has_it(mean, std):
    ours = ReferenceDecoder(f64(mean).expand(256, 1), f64(2 * math.log(std))).log_prob(LEVELS[:, None])
    theirs = [published(float(x), mean, math.log(std)) for x in LEVELS]
    assert_close(ours.exp(), f64(theirs).exp(), rtol=1e-9, atol=1e-15)
    assert (ours.min() == math.log(1e-12)) or std == 0.3


def test_dimensions_are_summed_each_with_its_own_variance():
    x, mean = LEVELS[torch.randint(0, 256, (2, 3, 4))], torch.rand(2, 3, 4).double() - 0.5
    log_variance = torch.rand(2, 3, 1).double() - 4
    whole = ReferenceDecoder(mean, log_variance).log_prob(x)
    for i in range(2):
        pixels = [
            published(float(x[i, j, k]), float(mean[i, j, k]), float(log_variance[i, j, 0]) / 2)
            for j in range(3) for k in range(4)
        ]  # fmt: skip
        assert float(whole[i]) == pytest.approx(sum(pixels), rel=1e-9)


def both(x, mean, std):
    return (
        float(decoder(f64([[mean]]), f64(2 * math.log(std))).log_prob(f64([[x]])))
        for decoder in (ReferenceDecoder, DiscretizedGaussian)
    )


def test_where_it_differs_from_the_decoder_that_is_right():
    near, right = both(float(LEVELS[100]), float(LEVELS[100]) + 0.004, 0.01)
    assert near == pytest.approx(right, abs=2e-3)
    assert near != pytest.approx(right, abs=1e-6)  # tanh is not Φ
    floored, right = both(float(LEVELS[100]), 0.5, 0.01)
    assert floored == math.log(1e-12)
    assert right < -2000
    masses = (
        ReferenceDecoder(f64(0.0).expand(256, 1), f64(2 * math.log(0.003))).log_prob(LEVELS[:, None]).exp()
    )
    assert float(masses.sum()) > 1 + 2e-10
