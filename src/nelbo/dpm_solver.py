"""DPM-Solver++(2M): a sampler of the second order, and its stochastic form."""

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.reverse import Prediction, ReverseProcess
from nelbo.schedule import NoiseSchedule
from nelbo.tables import coefficient


def dpm_solver_step(
    reverse: ReverseProcess,
    prediction: Prediction,
    x_t: Tensor,
    t: int,
    noise: Tensor,
    before: Tensor | None = None,
    *,
    stochastic: bool = False,
) -> Float[Tensor, "B *dims"]:
    """DPM-Solver++(2M): the flow's linear part solved exactly, x̂_0 continued along a line through the last two.

    With λ = ½ ln SNR, h = λ_{t−1} − λ_t and D = x̂_0 + (h/2h') (x̂_0 − x̂_0'), primes for the step before:
    x_{t−1} = (σ_{t−1}/σ_t) x_t + √ᾱ_{t−1} (1 − e^{−h}) D. Its stochastic form has e^{−h} σ_{t−1}/σ_t, 1 − e^{−2h},
    and σ_{t−1} √(1 − e^{−2h}) z on top. The first step and the last, to x̂_0 itself, are of the first order.

    Equation: Lu2022b algorithm 2
    """
    if t == 1:
        return prediction.x_0
    decay, gain, spread, slope = (table[t] for table in _solver_tables(reverse.schedule, stochastic))
    x_0 = prediction.x_0
    if before is not None:
        x_0 = x_0 + coefficient(slope, x_t) * (x_0 - before)
    moved = coefficient(decay, x_t) * x_t + coefficient(gain, x_t) * x_0
    return moved + coefficient(spread, x_t) * noise if stochastic else moved


def _solver_tables(schedule: NoiseSchedule, stochastic: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of the step t → t − 1, by t: what x_t, D and z are multiplied by, and h/2h'. Float64, (K + 1,)."""
    log_ratio = schedule.snr.log() / 2
    h = log_ratio[:-1] - log_ratio[1:]  # of t = 1 … K; that of t = 1 is infinite
    sigma, signal = schedule.one_minus_alphas_bar.sqrt(), schedule.alphas_bar.sqrt()
    decay = sigma[:-1] / sigma[1:]
    gain = signal[:-1] * -torch.expm1(-h * (2 if stochastic else 1))
    spread = sigma[:-1] * (-torch.expm1(-2 * h)).sqrt()
    slope = torch.cat([h[:-1] / (2 * h[1:]), h.new_zeros(1)])
    tables = (decay * torch.exp(-h) if stochastic else decay, gain, spread, slope)
    first, second, third, fourth = (torch.cat([table.new_zeros(1), table]) for table in tables)
    return first, second, third, fourth
