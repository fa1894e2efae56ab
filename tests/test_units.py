import math

import pytest
import torch
from torch.testing import assert_close

from nelbo import bits_per_dim


def test_a_uniform_over_256_levels_costs_8_bits_per_dim():
    d = 3 * 64 * 64
    assert bits_per_dim(d * math.log(256), d) == pytest.approx(8, rel=1e-14)
    assert_close(bits_per_dim(torch.tensor([math.log(2.0)]), 1), torch.tensor([1.0]))


def test_zero_dimensions_are_refused():
    with pytest.raises(ValueError, match="num_dims is 0"):
        bits_per_dim(1.0, 0)
