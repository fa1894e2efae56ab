"""How wrong x̂_0 is at every t: all that the bound of any shorter path and any fixed variance depends on.

KL[q(x_s|x_t, x_0) ‖ p_θ(x_s|x_t)] holds the network only in E‖x_0 − x̂_0‖², for any s < t and any σ² that does
not look at x_t; the decoder, only in how |x_0 − x̂_0| is distributed. Both are by-products of a sweep.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.evaluation.plan import interpolated
from nelbo.gaussian import DiscretizedGaussian
from nelbo.paths import optimal_paths, step_costs
from nelbo.schedule import NoiseSchedule
from nelbo.variance import AbstractVariance, Analytic, FixedLarge, FixedSmall, LearnedRange

_Kind = Literal["fixed-large", "fixed-small", "analytic"]
_KINDS: dict[type[AbstractVariance], _Kind] = {
    FixedLarge: "fixed-large",
    FixedSmall: "fixed-small",
    Analytic: "analytic",
    LearnedRange: "analytic",
}

_NUM_BINS, _SMALLEST, _NUM_KNOTS = 160, 1e-4, 72


@dataclass(frozen=True)
class ErrorProfile:
    """The errors of x̂_0 over t, at knots between which ln t and the logarithm of the value are interpolated.

    Attributes:
        num_timesteps: T of the schedule that it was measured on.
        knots: t, increasing; not whole where several steps were put together.
        errors: E‖x_0 − x̂_0‖²/d at each.
        log_variances: ln σ² at which the decoder's cost is given.
        decoder_costs: for each knot, for each ln σ²: E[−ln P(x_0)] of N(x̂_0, σ²) over 256 levels, nats/dim.
        num_images: from how many images.
    """

    num_timesteps: int
    knots: tuple[float, ...]
    errors: tuple[float, ...]
    log_variances: tuple[float, ...]
    decoder_costs: tuple[tuple[float, ...], ...]
    num_images: int

    def errors_by_step(self) -> Float[Tensor, "T_plus_1"]:
        """E‖x_0 − x̂_0‖²/d at t = 0..T; 0 at t = 0."""
        by_step = interpolated(self._log_steps(), self._log_knots(), _tensor(self.errors).log()).exp()
        by_step[0] = 0.0
        return by_step

    def decoder_costs_by_step(self) -> Float[Tensor, "T_plus_1 V"]:
        """The decoder's cost at t = 0..T for each ln σ², nats/dim."""
        table = _tensor(self.decoder_costs).T
        columns = [interpolated(self._log_steps(), self._log_knots(), column) for column in table]
        return torch.stack(columns, dim=1)

    def analytic(self) -> Analytic:
        """The fixed variances that make the bound least: one for each step, one for each decoder."""
        best = _tensor(self.log_variances)[self.decoder_costs_by_step().argmin(dim=1)]
        return Analytic(self.errors_by_step(), best.exp())

    def paths(self, schedule: NoiseSchedule, variance: AbstractVariance) -> dict[int, list[int]]:
        """For every K, the K steps whose bound is least, by the number of steps.

        Args:
            schedule: the network's own, not respaced.
            variance: of the steps. A learned one depends on the image, so that no path can be computed for it: it
                takes that of ``Analytic``.

        Raises:
            ValueError: for a variance of another kind.
        """
        if type(variance) not in _KINDS:
            raise ValueError(
                f"no path can be computed for a {type(variance).__name__}: choose a fixed variance"
            )
        kind = _KINDS[type(variance)]
        costs = step_costs(schedule, self.errors_by_step(), kind)
        first_kind = "fixed-small" if variance == FixedLarge(first_is_small=True) else kind
        return optimal_paths(costs, self._first_costs(schedule, first_kind))

    def _first_costs(self, schedule: NoiseSchedule, kind: _Kind) -> Tensor:
        """Nats/dim of the decoder of a path that begins with t_1 < t_2, [t_1, t_2]."""
        noise = schedule.one_minus_alphas_bar[:, None]
        if kind == "fixed-large":
            variances = noise.expand(-1, self.num_timesteps + 1)
        elif kind == "fixed-small":  # β̃ of the step t_2 → t_1
            t = torch.arange(self.num_timesteps + 1, device=noise.device)
            variances = schedule.posterior_variance(t[:, None], t[None, :])
        else:
            variances = self.analytic().decoder_variances[:, None].expand(-1, self.num_timesteps + 1)
        log_sigma = variances.nan_to_num().clamp(min=1e-300).log()
        grid, by_step = _tensor(self.log_variances), self.decoder_costs_by_step()
        place = (log_sigma.clamp(float(grid[0]), float(grid[-1])) - grid[0]) / (grid[1] - grid[0])
        left = place.floor().to(torch.int64).clamp(max=len(grid) - 2)
        costs = torch.lerp(by_step.gather(1, left), by_step.gather(1, left + 1), place - left)
        steps = torch.arange(self.num_timesteps + 1)
        return torch.where((steps[:, None] >= 1) & (steps[:, None] < steps[None, :]), costs, math.inf)

    def _log_steps(self) -> Tensor:
        return torch.arange(self.num_timesteps + 1, dtype=torch.float64).clamp(min=1).log()

    def _log_knots(self) -> Tensor:
        return _tensor(self.knots).log()


@dataclass
class ErrorCounter:
    """Counts the errors that a sweep comes by; give ``add`` to it as ``on_errors``."""

    num_timesteps: int
    sums: Tensor = field(init=False)
    histogram: Tensor = field(init=False)

    def __post_init__(self) -> None:
        knots = torch.cat(
            [torch.zeros(1), torch.logspace(0, math.log10(self.num_timesteps + 1), _NUM_KNOTS + 1)]
        )
        self._bins = torch.bucketize(torch.arange(self.num_timesteps + 1) + 0.5, knots) - 1
        self._edges = torch.logspace(math.log10(_SMALLEST), math.log10(2.0), _NUM_BINS)
        self.sums = torch.zeros(_NUM_KNOTS + 1, 3, dtype=torch.float64)
        self.histogram = torch.zeros(_NUM_KNOTS + 1, 3, _NUM_BINS + 1, dtype=torch.float64)

    def add(self, t: Tensor, x_0: Tensor, residual: Tensor) -> None:
        """Take in a batch: t (B,), x_0 and x_0 − x̂_0 (B, C, H, W)."""
        rows = self._bins[t]
        squared = residual.flatten(1).double().square().mean(dim=1).cpu()
        values = torch.stack([torch.ones_like(squared), t.double().log(), squared], dim=1)
        self.sums.index_add_(0, rows, values)
        distances = torch.bucketize(residual.flatten(1).abs(), self._edges.to(residual)).cpu()
        is_outer = x_0.flatten(1).abs() > 1 - 1 / 255
        is_beyond = is_outer & ((residual * x_0).flatten(1) < 0)
        width = _NUM_BINS + 1
        flat = (rows[:, None] * 3 + (is_outer.int() + is_beyond.int()).cpu()) * width + distances
        counts = torch.bincount(flat.flatten(), minlength=self.histogram.numel())
        self.histogram += counts.reshape(self.histogram.shape)

    def profile(self, num_images: int) -> ErrorProfile:
        """What was counted."""
        seen = self.sums[:, 0] > 0
        means = self.sums[seen, 1:] / self.sums[seen, :1]
        middles = torch.cat(
            [self._edges[:1] / 2, (self._edges[:-1] * self._edges[1:]).sqrt(), self._edges[-1:]]
        ).double()
        log_variances = torch.linspace(2 * math.log(2e-4), 2 * math.log(2.0), 96, dtype=torch.float64)
        # An inner value at 0 (no matter which), x̂_0 to the right; an outer one at −1, x̂_0 to the right; another,
        # x̂_0 to the left: beyond the range, where it can be without clipping, an outer value costs little.
        points = torch.tensor([0.0, -1.0, -1.0], dtype=torch.float64)[:, None, None].expand(
            3, len(middles), 96
        )
        sides = torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)[:, None, None]
        means_at = points + sides * middles[None, :, None]
        flat = DiscretizedGaussian(means_at.reshape(-1, 1), log_variances.repeat(3 * len(middles))[:, None])
        costs = -flat.log_prob(points.reshape(-1, 1)).reshape(3 * len(middles), 96)
        shares = self.histogram[seen].flatten(1)
        decoder = shares / shares.sum(dim=1, keepdim=True) @ costs
        return ErrorProfile(
            num_timesteps=self.num_timesteps,
            knots=tuple(means[:, 0].exp().tolist()),
            errors=tuple(means[:, 1].clamp(min=1e-12).tolist()),
            log_variances=tuple(log_variances.tolist()),
            decoder_costs=tuple(tuple(row) for row in decoder.tolist()),
            num_images=num_images,
        )


def _tensor(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
