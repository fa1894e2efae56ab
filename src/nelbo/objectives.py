"""What training minimises: the bound itself, the ε-loss that equals it up to a constant, or the simple loss.

Every objective is called ``objective(reverse, x_0, eps, t, label=None)`` and returns one number per image.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nelbo.bound import bound_term, bound_term_of
from nelbo.gaussian import sum_over_dims
from nelbo.reverse import Label, Prediction, ReverseProcess
from nelbo.tables import Timestep, gather
from nelbo.units import bits_per_dim

Objective = Callable[..., Tensor]
HYBRID_BOUND_WEIGHT = 1e-3


def simple(
    reverse: ReverseProcess, x_0: Tensor, eps: Tensor, t: Timestep, label: Label = None
) -> Float[Tensor, "B"]:
    """ω_t = 1: ‖ε − ε_θ(x_t, t)‖², averaged over dimensions (on x_0 or v, where the network predicts that).

    Equation: Ho2020 (14)
    Lecture: simple, algorithm 1

    Args:
        reverse: p_θ.
        x_0: data, (B, ...).
        eps: noise, (B, ...).
        t: 1..T, an int or (B,).
        label: int64 (B,), −1 for none.

    Returns:
        (B,), the mean squared error per dimension; not a likelihood.
    """
    _, prediction = _noise_and_predict(reverse, x_0, eps, t, label)
    return _squared_error_per_dim(reverse, prediction, x_0, eps, t)


def weighted(
    reverse: ReverseProcess, x_0: Tensor, eps: Tensor, t: Timestep, label: Label = None
) -> Float[Tensor, "B"]:
    """ω_t ‖ε − ε_θ(x_t, t)‖², ω_t = β_t²/(2σ_t² α_t (1−ᾱ_t)): L_{t−1} but for a constant, without clipping.

    Equation: Ho2020 (12)
    Lecture: ω_t

    Returns:
        (B,) nats, summed over dimensions.
    """
    x_t, prediction = _noise_and_predict(reverse, x_0, eps, t, label)
    s = reverse.schedule
    eps_hat = reverse.parameterization.eps(s, prediction.output, x_t, t)
    log_sigma_squared = reverse.variance.log_variance(s, t, x_t, prediction.variance_output)
    weight = gather(s.betas**2 / (2 * s.alphas * s.one_minus_alphas_bar), t, x_t) * torch.exp(
        -log_sigma_squared
    )
    return sum_over_dims(weight * (eps - eps_hat) ** 2)


def variational(
    reverse: ReverseProcess, x_0: Tensor, eps: Tensor, t: Timestep, label: Label = None
) -> Float[Tensor, "B"]:
    """T · L_{t−1}: for t uniform on 1..T its expectation is the bound less L_T.

    Equation: Nichol2021 (4)

    Returns:
        (B,) bits per dimension.
    """
    return _whole_bound_bits(reverse, bound_term(reverse, x_0, eps, t, label=label), x_0)


def hybrid(
    reverse: ReverseProcess, x_0: Tensor, eps: Tensor, t: Timestep, label: Label = None
) -> Float[Tensor, "B"]:
    """The simple loss for the mean, and 0.001 of the variational one for the variance alone.

    The gradient of the bound's part stops at the mean.

    Equation: Nichol2021 (16)

    Returns:
        (B,), the mean squared error per dimension plus 0.001 of the bound's bits per dimension.
    """
    x_t, prediction = _noise_and_predict(reverse, x_0, eps, t, label)
    frozen_mean = replace(prediction, x_0=prediction.x_0.detach(), eps=prediction.eps.detach())
    term = bound_term_of(reverse, frozen_mean, x_0, x_t, t)
    squared_error = _squared_error_per_dim(reverse, prediction, x_0, eps, t)
    return squared_error + HYBRID_BOUND_WEIGHT * _whole_bound_bits(reverse, term, x_0)


OBJECTIVES: dict[str, Objective] = {
    "simple": simple,
    "weighted": weighted,
    "variational": variational,
    "hybrid": hybrid,
}


def uniform_timesteps(uniforms: Float[Tensor, "B"], num_timesteps: int) -> Int[Tensor, "B"]:
    """Independent t on 1..T from numbers in [0, 1)."""
    return (uniforms * num_timesteps).to(torch.int64).clamp(max=num_timesteps - 1) + 1


def stratified_uniforms(
    offset: Float[Tensor, ""] | float, positions: Int[Tensor, "B"], batch_size: int
) -> Float[Tensor, "B"]:
    """Spread a batch evenly over [0, 1): each number is uniform on its own, all together cover the range.

    u_i = (offset + i/B) mod 1.

    Equation: Kingma2021 appendix I.1

    Args:
        offset: one number in [0, 1) for the whole (global) batch.
        positions: i, the places of these images in the global batch.
        batch_size: B, of the global batch.

    Returns:
        (B,), float64.
    """
    return (positions.to(torch.float64) / batch_size + offset) % 1.0


def _noise_and_predict(
    reverse: ReverseProcess, x_0: Tensor, eps: Tensor, t: Timestep, label: Label
) -> tuple[Tensor, Prediction]:
    x_t = reverse.forward_process.q_marginal(x_0, t).reparameterize(eps)
    return x_t, reverse.predict(x_t, t, label=label)


def _squared_error_per_dim(
    reverse: ReverseProcess, prediction: Prediction, x_0: Tensor, eps: Tensor, t: Timestep
) -> Tensor:
    target = reverse.parameterization.target(reverse.schedule, x_0, eps, t)
    return sum_over_dims((target - prediction.output) ** 2) / x_0[0].numel()


def _whole_bound_bits(reverse: ReverseProcess, term: Tensor, x_0: Tensor) -> Tensor:
    return bits_per_dim(term * reverse.schedule.num_timesteps, x_0[0].numel())
