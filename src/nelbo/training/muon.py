"""Muon: momentum, made orthogonal. Every direction of a weight matrix is learned at the same pace.

A convolution's weights count as a matrix, output channels by everything else. With a narrow network and few steps
this is what lets a velocity network learn the noise at all: under Adam the large, coherent gradients of the
picture drown those of the noise (benchmarks/RESULTS.md has the figures). torch.optim.Muon takes matrices only.

Source: Jordan 2024, "Muon: an optimizer for hidden layers in neural networks".
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


def orthogonalized(matrices: Sequence[Tensor]) -> list[Tensor]:
    """U Vᵀ of each matrix U S Vᵀ, roughly: five Newton-Schulz iterations leave singular values of about 0.7..1.2.

    X ← (a + b XXᵀ + c (XXᵀ)²) X. The factors act on the Gram matrix XXᵀ, which is small, and meet X once, at
    the end; Gram matrices of one size go through the iterations together.

    Args:
        matrices: (M, N) each, any scale; zero stays zero.
    """
    wide = [matrix.T if matrix.shape[0] > matrix.shape[1] else matrix for matrix in matrices]
    sizes = [norm + 1e-7 for norm in torch._foreach_norm(wide)]
    together = defaultdict(list)
    for index, matrix in enumerate(wide):
        together[len(matrix)].append(index)
    results: dict[int, Tensor] = {}
    for indices in together.values():
        scales = torch.stack([sizes[i] for i in indices])[:, None, None]
        factors = _factors(torch.stack([wide[i] @ wide[i].T for i in indices]) / scales**2) / scales
        results |= {i: factor @ wide[i] for i, factor in zip(indices, factors)}
    return [results[i].T if wide[i] is not matrix else results[i] for i, matrix in enumerate(matrices)]


def _factors(gram: Tensor) -> Tensor:
    """The product of the iterations' factors, from Gram matrices (K, M, M) of trace 1."""
    a, b, c = _COEFFICIENTS
    product = identity = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device).expand_as(gram)
    for _ in range(_ITERATIONS):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c) + a * identity
        product = factor @ product
        gram = factor @ gram @ factor
    return product


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
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            gradients = [parameter.grad for parameter in parameters]
            averages = [self.state[p].setdefault("momentum", torch.zeros_like(p)) for p in parameters]
            torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])
            ahead = torch._foreach_lerp(gradients, averages, group["momentum"])
            updates = orthogonalized([_as_matrix(kernel) for kernel in ahead])
            for parameter, update in zip(parameters, updates):
                scale = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
                parameter.add_(_as_kernel(update, parameter), alpha=-group["lr"] * scale)


def _as_matrix(kernel: Tensor) -> Tensor:
    """Output channels by all else, in the order of channels-last memory: a view there. No column has a place."""
    return kernel.movedim(1, -1).flatten(1)


def _as_kernel(matrix: Tensor, like: Tensor) -> Tensor:
    return matrix.reshape(like.movedim(1, -1).shape).movedim(-1, 1)
