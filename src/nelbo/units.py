"""Units: every number inside the mathematics is in nats; what a person reads is in bits per dimension."""

import math
from typing import TypeVar

from torch import Tensor

Number = TypeVar("Number", float, Tensor)


def bits_per_dim(nats: Number, num_dims: int) -> Number:
    """Turn nats, summed over dimensions, into bits per dimension: nats / (d ln 2).

    Args:
        nats: a number or a tensor of any shape, in nats summed over ``num_dims`` dimensions.
        num_dims: d, at least 1; 12,288 for a 3×64×64 image.

    Returns:
        The same shape, in bits per dimension.

    Raises:
        ValueError: if ``num_dims`` is not positive.
    """
    if num_dims < 1:
        raise ValueError(f"num_dims is {num_dims}; bits per dimension need at least one dimension")
    return nats / (num_dims * math.log(2.0))
