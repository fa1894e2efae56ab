"""Muon: momentum, made orthogonal. Every direction of a weight matrix is learned at the same pace.

A convolution's weights count as a matrix, output channels by everything else. With a narrow network and few steps
this is what lets a velocity network learn the noise at all: under Adam the large, coherent gradients of the
picture drown those of the noise (benchmarks/RESULTS.md has the figures). torch.optim.Muon takes matrices only.

Source: Jordan 2024, "Muon: an optimizer for hidden layers in neural networks".
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


def orthogonalized(matrix: Tensor) -> Tensor:
    """U Vᵀ of the matrix U S Vᵀ, roughly: five Newton-Schulz iterations leave singular values of about 0.7..1.2.

    X ← (a + b XXᵀ + c (XXᵀ)²) X. The factors act on the Gram matrix XXᵀ, which is small, and meet X once, at
    the end.

    Args:
        matrix: (M, N), any scale; zero stays zero.
    """
    a, b, c = _COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    gram = x @ x.T
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    product = identity
    for _ in range(_ITERATIONS):
        factor = a * identity + b * gram + c * gram @ gram
        product = factor @ product
        gram = factor @ gram @ factor
    result: Tensor = product @ x
    return result.T if tall else result


class Muon(torch.optim.Optimizer):
    """Muon for parameters of two dimensions or more, with Nesterov's momentum.

    Args:
        parameters: matrices or convolution kernels.
        lr: the learning rate; about 0.02, whatever the width.
        momentum: in [0, 1).
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], *, lr: float = 0.02, momentum: float = 0.95
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step along the orthogonalised momentum."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                average = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                average.lerp_(parameter.grad, 1 - group["momentum"])
                ahead = parameter.grad.lerp(average, group["momentum"])
                update = orthogonalized(ahead.flatten(1))
                scale = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
                parameter.add_(update.view_as(parameter), alpha=-group["lr"] * scale)
