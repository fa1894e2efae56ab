"""The forward process q: it adds noise, step by step, and everything about it is known in closed form.

q(x_{1:T}|x_0) = Π_t q(x_t|x_{t−1})
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.gaussian import Gaussian
from nelbo.schedule import NoiseSchedule, Table
from nelbo.tables import Timestep, check_timestep, gather


@dataclass(frozen=True)
class ForwardProcess:
    """q(x_t|x_{t−1}), q(x_t|x_0) and q(x_{t−1}|x_t, x_0) under a noise schedule."""

    schedule: NoiseSchedule

    def q_transition(self, x_prev: Float[Tensor, "B *dims"], t: Timestep) -> Gaussian:
        """One step of noise: q(x_t|x_{t−1}) = N(√(1−β_t) x_{t−1}, β_t I).

        Equation: Ho2020 (2)
        Lecture: forward step

        Args:
            x_prev: x_{t−1}, (B, ...).
            t: 1..T, an int or (B,).
        """
        self._check(x_prev, t)
        return Gaussian(
            mean=gather(self._sqrt_alphas, t, x_prev) * x_prev,
            log_variance=gather(self._log_betas, t, x_prev),
        )

    def q_marginal(self, x_0: Float[Tensor, "B *dims"], t: Timestep) -> Gaussian:
        """All t steps at once: q(x_t|x_0) = N(√ᾱ_t x_0, (1−ᾱ_t) I), with ᾱ_t the product of the α.

        Equation: Ho2020 (4)
        Lecture: closed form

        Args:
            x_0: data, (B, ...).
            t: 1..T, an int or (B,).
        """
        self._check(x_0, t)
        return Gaussian(
            mean=gather(self._sqrt_alphas_bar, t, x_0) * x_0,
            log_variance=gather(self._log_marginal_variances, t, x_0),
        )

    def q_posterior(
        self, x_0: Float[Tensor, "B *dims"], x_t: Float[Tensor, "B *dims"], t: Timestep
    ) -> Gaussian:
        """Bayes: q(x_{t−1}|x_t, x_0) = N(c_t x_0 + γ_t x_t, β̃_t I).

        c_t = √ᾱ_{t−1} β_t/(1−ᾱ_t), γ_t = √α_t (1−ᾱ_{t−1})/(1−ᾱ_t), β̃_t = β_t (1−ᾱ_{t−1})/(1−ᾱ_t). At t = 1 it
        is a Dirac at x_0: c_1 = 1, γ_1 = 0, log-variance −inf.

        Equation: Ho2020 (6) and (7)
        Lecture: Bayes

        Args:
            x_0: data, or a network's estimate of it, (B, ...).
            x_t: (B, ...).
            t: 1..T, an int or (B,).
        """
        self._check(x_0, t)
        return Gaussian(
            mean=gather(self._posterior_c, t, x_0) * x_0 + gather(self._posterior_gamma, t, x_t) * x_t,
            log_variance=gather(self._log_posterior_variances, t, x_t),
        )

    def _check(self, x: Tensor, t: Timestep) -> None:
        check_timestep(t, self.schedule.num_timesteps, len(x))
        if not x.is_floating_point():
            raise ValueError(
                f"the images are {x.dtype}; give numbers from −1 to 1, u/127.5 − 1 for a level u"
            )

    @cached_property
    def _sqrt_alphas(self) -> Table:
        return self.schedule.alphas.sqrt()

    @cached_property
    def _log_betas(self) -> Table:
        return self.schedule.betas.log()

    @cached_property
    def _sqrt_alphas_bar(self) -> Table:
        return self.schedule.alphas_bar.sqrt()

    @cached_property
    def _log_marginal_variances(self) -> Table:
        # Next to 1 a number says little of how far from 1 it is; ᾱ_t says it.
        ab, variances = self.schedule.alphas_bar, self.schedule.one_minus_alphas_bar
        return torch.where(ab < 0.5, torch.log1p(-ab), variances.log())

    @cached_property
    def _log_posterior_variances(self) -> Table:
        return self.schedule.posterior_variances.log()

    @cached_property
    def _posterior_c(self) -> Table:
        s = self.schedule
        return _with_sentinel(s.alphas_bar[:-1].sqrt() * s.betas[1:] / s.one_minus_alphas_bar[1:])

    @cached_property
    def _posterior_gamma(self) -> Table:
        s = self.schedule
        before, after = s.one_minus_alphas_bar[:-1], s.one_minus_alphas_bar[1:]
        return _with_sentinel(s.alphas[1:].sqrt() * before / after)


def _with_sentinel(values: Float[Tensor, "T"]) -> Table:
    return torch.cat([values.new_zeros(1), values])
