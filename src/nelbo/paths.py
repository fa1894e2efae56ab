"""Which K of the T steps a short chain takes: by rule, or the best ones, by dynamic programming over the bound.

A chain of the steps t_1 < … < t_K = T costs L_T, the divergence of every step t_k → t_{k−1}, and L_0. Each term but
L_0 depends on its own two ends alone, so the best path is a shortest path.
"""

from collections.abc import Callable
from typing import Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.schedule import NoiseSchedule

Shares = TypeVar("Shares", float, Tensor)
Costs = Float[Tensor, "T_plus_1 T_plus_1"]


def even(num_timesteps: int, num_steps: int) -> list[int]:
    """K steps at equal distances, from 1 to T; with K = 1, T alone."""
    _check(num_timesteps, num_steps)
    if num_steps == 1:
        return [num_timesteps]
    return [1 + round(k * (num_timesteps - 1) / (num_steps - 1)) for k in range(num_steps)]


def quadratic(num_timesteps: int, num_steps: int) -> list[int]:
    """K steps, closer together near the data: t_k grows as k².

    Equation: Song2021 appendix D.2
    """
    _check(num_timesteps, num_steps)
    if num_steps == 1:
        return [num_timesteps]
    raw = [1 + round((k / (num_steps - 1)) ** 2 * (num_timesteps - 1)) for k in range(num_steps)]
    steps = [raw[0]]
    for step in raw[1:]:
        steps.append(max(step, steps[-1] + 1))
    return steps


def shifted(num_timesteps: int, num_steps: int) -> list[int]:
    """K steps, closer together near the noise, where a picture's shape is decided: see ``shift``, with s = 3."""
    _check(num_timesteps, num_steps)
    if num_steps == 1:
        return [num_timesteps]
    shares = [shift(k / (num_steps - 1), 3.0) for k in range(num_steps)]
    steps = [num_timesteps]
    for k in range(num_steps - 2, -1, -1):  # from the noise on, where they would fall on one another
        steps.append(max(k + 1, min(1 + round(shares[k] * (num_timesteps - 1)), steps[-1] - 1)))
    return steps[::-1]


def shift(shares: Shares, s: float) -> Shares:
    """Move numbers in [0, 1] towards 1, the noise: s u/(1 + (s − 1) u), whose slope is s at 0 and 1/s at 1.

    Equation: Esser2024 (23)

    Args:
        shares: u, a number or a tensor.
        s: above 1 towards 1, below 1 towards 0.
    """
    return s * shares / (1 + (s - 1) * shares)


def log_snr(schedule: NoiseSchedule, num_steps: int) -> list[int]:
    """K steps at equal distances of λ = ½ ln SNR, in which the flow is smooth; from 1 to T.

    Equation: Lu2022a section 3.3
    """
    num_timesteps = schedule.num_timesteps
    _check(num_timesteps, num_steps)
    if num_steps == 1:
        return [num_timesteps]
    levels = -schedule.snr[1:].log().cpu()  # rising
    wanted = torch.linspace(float(levels[0]), float(levels[-1]), num_steps, dtype=torch.float64)
    above = torch.searchsorted(levels, wanted).clamp(1, num_timesteps - 1)
    nearest = torch.where(wanted - levels[above - 1] < levels[above] - wanted, above - 1, above)
    steps = [1]
    for k, index in enumerate(nearest.tolist()[1:], 1):  # where they would fall on one another
        steps.append(min(max(index + 1, steps[-1] + 1), num_timesteps - (num_steps - 1 - k)))
    return steps


PATHS: dict[str, Callable[[NoiseSchedule, int], list[int]]] = {
    "even": lambda schedule, num_steps: even(schedule.num_timesteps, num_steps),
    "quadratic": lambda schedule, num_steps: quadratic(schedule.num_timesteps, num_steps),
    "shifted": lambda schedule, num_steps: shifted(schedule.num_timesteps, num_steps),
    "log-snr": log_snr,
}


def step_costs(
    schedule: NoiseSchedule,
    errors: Float[Tensor, "n"],
    variance: Literal["fixed-large", "fixed-small", "analytic"],
) -> Costs:
    """The expected divergence of a single step from t to s: ½ [ln r − 1 + (1 + g e_t)/r] per dimension.

    e_t = E‖x_0 − x̂_0(x_t)‖²/d is the network's error, g = SNR_s − SNR_t = c²/β̃ what an error costs, and r = σ²/β̃:
    1 for β̃, (1−ᾱ_t)/(1−ᾱ_s) for β, 1 + g e_t for ``Analytic``. (b = 1 − ᾱ_t/ᾱ_s is the β of such a step, b̃ and c
    follow from it.) SNR_s and SNR_t are never nearly equal, so nothing cancels.

    Args:
        schedule: the network's own, not respaced.
        errors: e_t, (T+1,), indexed by t; the sentinel is not read. An infinite one bans that step.
        variance: of the steps.

    Returns:
        (T+1, T+1) float64 nats per dimension; [s, t] is the step t → s for 1 ≤ s < t, and all else is +inf.

    Raises:
        ValueError: if there are not T+1 errors, or the variance is unknown.
    """
    if len(errors) != schedule.num_timesteps + 1:
        raise ValueError(
            f"errors has {len(errors)} values; the schedule of T = {schedule.num_timesteps} needs T+1, from t = 0"
        )
    gain = schedule.snr[:, None] - schedule.snr
    excess = gain * errors.to(schedule.betas)
    if variance == "analytic":
        costs = 0.5 * torch.log1p(excess)
    elif variance == "fixed-small":
        costs = 0.5 * excess
    elif variance == "fixed-large":
        log_ratio = torch.log1p(gain * schedule.one_minus_alphas_bar)
        costs = 0.5 * (log_ratio + torch.expm1(-log_ratio) + excess * torch.exp(-log_ratio))
    else:
        raise ValueError(f"unknown variance {variance!r}; choose one of analytic, fixed-large, fixed-small")
    return torch.where(_is_step(len(costs)).to(costs.device), costs, torch.inf)


def optimal_paths(
    step_costs: Tensor, first_costs: Tensor, max_steps: int | None = None, last: int | None = None
) -> dict[int, list[int]]:
    """The path of least cost for every K at once, by dynamic programming.

    best_2[t] = min_s first[s, t] + step[s, t], then best_k[t] = min_s best_{k−1}[s] + step[s, t]. T³/3 additions,
    about a second for T = 1000. (Where the network is the exact E[x_0|x_t], one more step between two others never
    costs more; where it is not, it can.)

    Equation: Watson2021, dynamic programming

    Args:
        step_costs: (T+1, T+1); [s, t] is the cost of the step t → s, read for 1 ≤ s < t; +inf bans it.
        first_costs: (T+1, T+1); [s, t] is L_0 of a path that begins s < t, in the same unit: σ_1² may depend on t,
            as that of ``FixedSmall`` does. Constant along t if not.
        max_steps: the greatest K; ``last`` if left out.
        last: where every path ends; T if left out.

    Returns:
        For each K, t_1 < … < t_K = T. A K that the banned steps leave no path for is absent.

    Raises:
        ValueError: if the shapes are not (T+1, T+1), ``last`` or ``max_steps`` is out of range, or a cost is NaN.
    """
    num_timesteps = len(step_costs) - 1
    if not step_costs.shape == first_costs.shape == (num_timesteps + 1, num_timesteps + 1):
        raise ValueError(
            f"step_costs is {tuple(step_costs.shape)} and first_costs {tuple(first_costs.shape)};"
            " both must be (T+1, T+1)"
        )
    last = num_timesteps if last is None else last
    if not 1 <= last <= num_timesteps:
        raise ValueError(f"last is {last}; choose 1..{num_timesteps}, the steps of the costs")
    max_steps = last if max_steps is None else max_steps
    _check(last, max_steps)
    is_step = _is_step(last + 1)
    into = _only(is_step, step_costs, "step_costs").T.contiguous()  # [t, s]
    costs = into + _only(is_step, first_costs, "first_costs").T
    best, paths = into.new_zeros(last + 1), {1: [last]}
    came_from: list[list[int]] = []
    for k in range(2, max_steps + 1):
        # t_k ≥ k, so that a shrinking corner is all there is to search.
        least, index = torch.min(best[k - 1 : last] + costs[k:, k - 1 : last], dim=1)
        best = torch.cat([best.new_full((k,), torch.inf), least])
        came_from.append([0] * k + (index + k - 1).tolist())
        costs = into
        if torch.isfinite(best[last]):
            paths[k] = [last]
    for num_steps, path in paths.items():
        for before in reversed(came_from[: num_steps - 1]):
            path.insert(0, before[path[0]])
    return paths


def optimal(step_costs: Tensor, first_costs: Tensor, num_steps: int, last: int | None = None) -> list[int]:
    """The K steps t_1 < … < t_K = T of least cost; see ``optimal_paths``, which has all K for the price of one.

    Raises:
        ValueError: also if the banned steps leave no path of K steps.
    """
    paths = optimal_paths(step_costs, first_costs, num_steps, last)
    if num_steps not in paths:
        raise ValueError(f"no path of {num_steps} steps has a finite cost; choose another number of steps")
    return paths[num_steps]


def _is_step(size: int) -> Tensor:
    """[s, t]: whether 1 ≤ s < t."""
    is_step = torch.ones(size, size, dtype=torch.bool).triu(1)
    is_step[0] = False
    return is_step


def _only(is_step: Tensor, costs: Tensor, name: str) -> Tensor:
    size = len(is_step)
    read = costs[:size, :size].detach().to("cpu", torch.float64).where(is_step, torch.inf)
    if bool(read.isnan().any()):
        s, t = torch.nonzero(read.isnan())[0].tolist()
        raise ValueError(
            f"{name}[{s}, {t}] is NaN; give the cost of every step, +inf for one not to be taken"
        )
    return read


def _check(num_timesteps: int, num_steps: int) -> None:
    if not 1 <= num_steps <= num_timesteps:
        raise ValueError(f"steps is {num_steps}; choose 1..{num_timesteps}, the steps of the schedule")
