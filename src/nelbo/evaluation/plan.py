"""Where a sweep spends its network evaluations: which steps t, how often, and with what weight.

The bound of an image is a sum over t = 1..T of terms f(t, ε). A round draws one t from each of K slots, ranges of
steps that cover 1..T, with probability p(t) within the slot: Σ_slots f(t, ε)/p(t) is unbiased whatever slots and p
are. They decide the variance alone. Where p(t) is proportional to the mean term, f/p hardly depends on t; where
every slot holds the same share of the spread that is left, one draw from each is Neyman's allocation.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

_DEFENSIVE = 0.1


@dataclass(frozen=True)
class Plan:
    """One round of draws.

    Attributes:
        slots: (first, last) of each range of steps. They cover 1..T once, but that (1, 1), L_0, comes first and may
            be there several times.
        density: float64 (T+1,), positive for t ≥ 1: within a slot, t is drawn in proportion to it.
    """

    slots: tuple[tuple[int, int], ...]
    density: Tensor

    @property
    def num_first(self) -> int:
        """How often a round draws L_0."""
        return self.slots.count((1, 1))

    def draw(
        self, slots: Int[Tensor, "B"], u: Float[Tensor, "B"]
    ) -> tuple[Int[Tensor, "B"], Float[Tensor, "B"]]:
        """The steps that uniform numbers stand for, and the weights that make the sum unbiased.

        Args:
            slots: which slot each draw is from, 0..K−1.
            u: in [0, 1).

        Returns:
            t (B,) and 1/p(t) (B,) float64; for L_0, one over the number of its draws.
        """
        cumulative = torch.cumsum(self.density, dim=0)
        edges = torch.tensor(self.slots)
        first, last = edges[slots, 0], edges[slots, 1]
        low, high = cumulative[first - 1], cumulative[last]
        t = torch.searchsorted(cumulative, low + u * (high - low), right=True)
        t = torch.minimum(torch.maximum(t, first), last)
        weights = (high - low) / self.density[t]
        return t, torch.where(t == 1, 1.0 / self.num_first, weights)


def strata(spread: Float[Tensor, "T_plus_1"], num_strata: int) -> list[tuple[int, int]]:
    """At most K ranges (first, last) that cover t = 2..T once, each with about the same total of ``spread``."""
    num_timesteps = len(spread) - 1
    num_strata = min(num_strata, num_timesteps - 1)
    if num_strata < 1:
        return []
    share = torch.cumsum(spread[2:], dim=0) / spread[2:].sum()
    firsts = [2]
    for index in range(1, num_strata):
        wanted = 3 + int(torch.searchsorted(share, index / num_strata))
        remaining = num_strata - index
        firsts.append(min(max(wanted, firsts[-1] + 1), num_timesteps + 1 - remaining))
    return list(zip(firsts, [first - 1 for first in firsts[1:]] + [num_timesteps]))


def geometric(num_timesteps: int, num_slots: int) -> Plan:
    """A plan that knows nothing of the model: slots that grow with t, as terms fall roughly as 1/t."""
    steps = torch.arange(num_timesteps + 1, dtype=torch.float64)
    return Plan(((1, 1), *strata(1 / steps.clamp(min=1), num_slots - 1)), torch.ones_like(steps))


def every_step(num_timesteps: int) -> Plan:
    """The plan that leaves no step out."""
    return Plan(
        tuple((t, t) for t in range(1, num_timesteps + 1)), torch.ones(num_timesteps + 1, dtype=torch.float64)
    )


def allocated(
    t: Int[Tensor, "R N K"], terms: Float[Tensor, "R N K"], num_timesteps: int, num_slots: int
) -> Plan:
    """The plan that a pilot makes: two rounds or more over a few images, one column for each slot of its plan.

    The mean term, interpolated over ln t, is the density; what two draws from the same image and slot still
    differ by, relative to it, is the spread by which slots are cut.

    Args:
        t: the steps that the pilot drew, R ≥ 2.
        terms: what it found there.
        num_timesteps: T.
        num_slots: K of the new plan, at least 2 where T is.
    """
    means = terms.mean(dim=(0, 1)).clamp(min=1e-300)
    knots = t.double().log().mean(dim=(0, 1))
    steps = torch.arange(num_timesteps + 1, dtype=torch.float64).clamp(min=1).log()
    mean_term = interpolated(steps, knots, means.log()).exp()
    left = terms / mean_term[t]
    relative = left.var(dim=0).mean(dim=0).sqrt()
    relative = relative.clamp(min=max(0.3 * float(relative.median()), 1e-12))
    spread = mean_term * interpolated(steps, knots, relative.log()).exp()
    num_first = min(max(1, round(num_slots * float(spread[1] / spread[1:].sum()))), max(1, num_slots // 2))
    ranges = strata(spread, num_slots - num_first)
    density = torch.empty_like(mean_term)
    for first, last in [(0, 1), *ranges]:
        part = mean_term[first : last + 1]
        density[first : last + 1] = (1 - _DEFENSIVE) * part + _DEFENSIVE * part.mean()
    return Plan(((1, 1),) * num_first + tuple(ranges), density)


def interpolated(
    x: Float[Tensor, "N"], knots: Float[Tensor, "K"], values: Float[Tensor, "K"]
) -> Float[Tensor, "N"]:
    """Piecewise linear through increasing knots, constant beyond the ends."""
    if len(knots) == 1:
        return values.expand(len(x)).clone()
    right = torch.searchsorted(knots, x).clamp(1, len(knots) - 1)
    share = (x - knots[right - 1]) / (knots[right] - knots[right - 1])
    return torch.lerp(values[right - 1], values[right], share.clamp(0.0, 1.0))


def student_975(degrees: int) -> float:
    """The 97.5 % quantile of Student's t, to 0.2 %: an interval of ± so many standard errors covers 95 %.

    Equation: Abramowitz & Stegun 1964 (26.7.5)
    """
    if degrees < 1:
        return math.nan
    if degrees <= 2:
        return (12.7062, 4.3027)[degrees - 1]
    z, n = 1.959964, degrees
    return (
        z
        + (z**3 + z) / (4 * n)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * n**4)
    )
