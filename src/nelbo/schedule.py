"""The noise schedule: β_1 … β_T and everything that follows from it.

    α_t = 1 − β_t      ᾱ_t = Π_{i≤t} α_i      β̃_t = β_t (1 − ᾱ_{t−1})/(1 − ᾱ_t)      SNR_t = ᾱ_t/(1 − ᾱ_t)

Tables are float64, of length T+1, with a sentinel at index 0 (β_0 = 0, ᾱ_0 = 1), so that ``betas[t]`` is β_t.
"""

import math
from collections.abc import Sequence
from copy import copy
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nelbo.tables import whole

Table = Float[Tensor, "T_plus_1"]


class NoiseSchedule:
    """How much noise each of T steps adds. Made by ``linear``, ``cosine``, ``from_betas`` or ``respaced``.

    Attributes:
        num_timesteps: T.
        betas: β_t, float64 (T+1,), each in (0, 1) but for the sentinel.
        alphas: α_t = 1 − β_t.
        alphas_bar: ᾱ_t, the product of α_1 … α_t.
        one_minus_alphas_bar: 1 − ᾱ_t, the marginal variance, computed without cancellation.
        posterior_variances: β̃_t; β̃_1 = 0.
        snr: ᾱ_t/(1 − ᾱ_t); +inf at index 0.
        clock: int64 (T+1,), what the network is told at t: t − 1 unless respaced.
    """

    def __init__(
        self,
        betas: Float[Tensor, "T"],
        clock: Int[Tensor, "T_plus_1"] | None = None,
        log_alphas_bar: Table | None = None,
    ) -> None:
        """Use a named constructor instead.

        Args:
            betas: the T values, without the sentinel.
            clock: see above.
            log_alphas_bar: ln ᾱ_t, if it is known better than from ``betas``: a β next to 1 says little of 1 − β.
        """
        values = betas.detach().to(torch.float64)
        if values.ndim != 1 or len(values) == 0:
            raise ValueError(f"betas has shape {tuple(values.shape)}; give T ≥ 1 values β_1 … β_T")
        bad = torch.nonzero(~((values > 0) & (values < 1))).flatten()
        if len(bad):
            t = int(bad[0])
            raise ValueError(
                f"β_{t + 1} = {float(values[t]):g} is outside (0, 1); choose smaller endpoints or more steps"
            )
        self.num_timesteps: int = len(values)
        self.betas: Table = torch.cat([values.new_zeros(1), values])
        self.clock: Int[Tensor, T_plus_1] = (
            torch.arange(-1, self.num_timesteps, device=values.device) if clock is None else clock
        )
        self._log_alphas_bar: Table = (
            torch.cumsum(torch.log1p(-self.betas), dim=0) if log_alphas_bar is None else log_alphas_bar
        )

    @classmethod
    def linear(
        cls, num_timesteps: int = 1000, beta_start: float | None = None, beta_end: float | None = None
    ) -> "NoiseSchedule":
        """β rises linearly from β_1 to β_T.

        Equation: Ho2020 section 4
        Lecture: noise schedule

        Args:
            num_timesteps: T; with T = 1 there is one β, so that both endpoints must be the same.
            beta_start: β_1; left out, 1e-4 · 1000/T, so that ᾱ_T hardly depends on T.
            beta_end: β_T; left out, 0.02 · 1000/T.

        Raises:
            ValueError: if T < 1, or a β falls outside (0, 1), as the default endpoints do for T ≤ 20.
        """
        num_timesteps = _checked(num_timesteps)
        scale = 1000 / num_timesteps
        start = 1e-4 * scale if beta_start is None else beta_start
        end = 0.02 * scale if beta_end is None else beta_end
        if num_timesteps == 1 and start != end:
            raise ValueError(
                f"one step has one β, and the endpoints are {start:g} and {end:g}; use from_betas([β_1])"
            )
        return cls(torch.linspace(start, end, num_timesteps, dtype=torch.float64))

    @classmethod
    def cosine(cls, num_timesteps: int = 1000, s: float = 0.008) -> "NoiseSchedule":
        """ᾱ_t follows a squared cosine; β_t is kept at or below 0.999.

        ᾱ_t = f(t)/f(0), f(t) = cos² a_t, a_t = (t/T + s)/(1 + s) · π/2. Then β_t = 1 − f(t)/f(t−1), which cancels
        for small t, is sin(a_t − a_{t−1}) sin(a_t + a_{t−1})/f(t−1), which does not.

        Equation: Nichol2021 (17)

        Args:
            num_timesteps: T.
            s: the offset that keeps β_1 from vanishing.
        """
        num_timesteps = _checked(num_timesteps)
        fraction = torch.arange(num_timesteps + 1, dtype=torch.float64) / num_timesteps
        a = (fraction + s) / (1 + s) * (math.pi / 2)
        difference = math.pi / 2 / ((1 + s) * num_timesteps)
        betas = math.sin(difference) * torch.sin(a[1:] + a[:-1]) / torch.cos(a[:-1]) ** 2
        return cls(torch.clamp(betas, max=0.999))

    @classmethod
    def from_betas(cls, betas: Sequence[float] | Tensor) -> "NoiseSchedule":
        """The schedule of these T values β_1 … β_T, each in (0, 1)."""
        return cls(torch.as_tensor(betas, dtype=torch.float64))

    @cached_property
    def alphas(self) -> Table:
        """α_t = 1 − β_t, as ᾱ_t/ᾱ_{t−1}, which has its digits where β_t is next to 1.

        Lecture: α_t
        """
        return torch.exp(torch.diff(self._log_alphas_bar, prepend=self._log_alphas_bar[:1]))

    @cached_property
    def alphas_bar(self) -> Table:
        """ᾱ_t = Π_{i≤t} α_i, the product (the lecture's slide writes a sum); ᾱ_0 = 1.

        Lecture: ᾱ_t
        """
        return torch.exp(self._log_alphas_bar)

    @cached_property
    def one_minus_alphas_bar(self) -> Table:
        """1 − ᾱ_t, the variance of q(x_t|x_0)."""
        return torch.expm1(self._log_alphas_bar).abs()  # (minus would make a −0 of the sentinel)

    @cached_property
    def posterior_variances(self) -> Table:
        """β̃_t = β_t (1 − ᾱ_{t−1})/(1 − ᾱ_t); 0 at t = 1."""
        t = torch.arange(1, self.num_timesteps + 1, device=self.betas.device)
        variances = self.posterior_variance(t - 1, t)
        return torch.cat([variances.new_zeros(1), variances])

    def posterior_variance(self, s: Int[Tensor, "..."], t: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
        """β̃ of one step from t to s < t: β (1 − ᾱ_s)/(1 − ᾱ_t), in which β = 1 − ᾱ_t/ᾱ_s.

        Equation: Ho2020 (7)
        Lecture: β̃_t

        Args:
            s: 0..T−1, of any shape.
            t: 1..T, of a shape that broadcasts with that of ``s``.
        """
        return self._beta(s, t) * self.one_minus_alphas_bar[s] / self.one_minus_alphas_bar[t]

    def _beta(self, s: Tensor, t: Tensor) -> Tensor:
        """1 − ᾱ_t/ᾱ_s, the β of one step from s to t."""
        return -torch.expm1(self._log_alphas_bar[t] - self._log_alphas_bar[s])

    @cached_property
    def snr(self) -> Table:
        """The signal-to-noise ratio ᾱ_t/(1 − ᾱ_t)."""
        return self.alphas_bar / self.one_minus_alphas_bar

    def respaced(self, timesteps: Sequence[int]) -> "NoiseSchedule":
        """Keep only these steps: the shorter chain has the same marginals at them.

        β'_k = 1 − ᾱ_{t_k}/ᾱ_{t_{k−1}}, and the network is still told the clock of t_k.

        Equation: Nichol2021 (19)

        Args:
            timesteps: t_1 < … < t_K, each in 1..T.

        Raises:
            ValueError: if the steps are not whole, not strictly increasing, or leave 1..T.
        """
        kept = [whole(t, "a time step") for t in timesteps]
        if not kept:
            raise ValueError("timesteps is empty; keep at least one step")
        if kept[0] < 1 or kept[-1] > self.num_timesteps or any(b <= a for a, b in zip(kept, kept[1:])):
            raise ValueError(
                f"timesteps {_shortened(kept)} must increase strictly within 1..{self.num_timesteps}"
            )
        index = torch.tensor([0, *kept], device=self.betas.device)
        betas = self._beta(index[:-1], index[1:])
        return NoiseSchedule(betas, self.clock[index], self._log_alphas_bar[index])

    def to(self, device: torch.device | str) -> "NoiseSchedule":
        """The same schedule with its tables on ``device``, so that a lookup there copies nothing."""
        if self.betas.device == torch.device(device):
            return self
        moved = copy(self)
        moved.__dict__ = {
            name: value.to(device) if isinstance(value, Tensor) else value
            for name, value in self.__dict__.items()
        }
        return moved

    def __repr__(self) -> str:
        first, end, last = float(self.betas[1]), float(self.betas[-1]), float(self.alphas_bar[-1])
        return f"NoiseSchedule(T={self.num_timesteps}, β {first:.3g} … {end:.3g}, ᾱ_T={last:.3g})"


def _checked(num_timesteps: Any) -> int:
    number = whole(num_timesteps, "num_timesteps")
    if number < 1:
        raise ValueError(f"num_timesteps is {number}; a diffusion has at least one step")
    return number


def _shortened(values: list[int]) -> str:
    return str(values) if len(values) <= 8 else f"[{', '.join(map(str, values[:4]))}, …, {values[-1]}]"
