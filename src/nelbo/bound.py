"""The loss of the lecture, twice: along one path (parts 1–3) and as a sum of divergences (parts 4–6).

    −ln p_θ(x_0) ≤ E_q[−ln p_θ(x_{0:T})/q(x_{1:T}|x_0)]
                 = L_T + Σ_{t≥2} KL[q(x_{t−1}|x_t, x_0) ‖ p_θ(x_{t−1}|x_t)] + L_0

Everything is in nats, summed over dimensions, shape (B,).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.gaussian import Gaussian, kl_divergence
from nelbo.randomness import randn
from nelbo.reverse import Label, Prediction, ReverseProcess
from nelbo.tables import Timestep
from nelbo.units import bits_per_dim


def bound_term(
    reverse: ReverseProcess,
    x_0: Float[Tensor, "B *dims"],
    eps: Float[Tensor, "B *dims"],
    t: Timestep,
    *,
    label: Label = None,
) -> Float[Tensor, "B"]:
    """One term of the bound: L_{t−1} for t ≥ 2, L_0 for t = 1, at x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε.

    L_{t−1} = KL[q(x_{t−1}|x_t, x_0) ‖ p_θ(x_{t−1}|x_t)] is E ‖μ̃_t − μ_θ‖²/2σ_t², and what the two variances add
    where they differ. It can be differentiated.

    Equation: Ho2020 (5) and (8)
    Lecture: L_{t-1}, weighted MSE on means

    Args:
        reverse: p_θ.
        x_0: data on the 256-level grid, (B, ...).
        eps: the noise that makes x_t, (B, ...).
        t: 1..T, an int or (B,), mixed as you like.
        label: int64 (B,), −1 for none.

    Returns:
        (B,) nats, summed over dimensions.
    """
    x_t = reverse.forward_process.q_marginal(x_0, t).reparameterize(eps)
    return bound_term_of(reverse, reverse.predict(x_t, t, label=label), x_0, x_t, t)


def bound_term_of(
    reverse: ReverseProcess,
    prediction: Prediction,
    x_0: Float[Tensor, "B *dims"],
    x_t: Float[Tensor, "B *dims"],
    t: Timestep,
) -> Float[Tensor, "B"]:
    """The term of the bound that a prediction, already at hand, makes."""
    p = reverse.transition_of(prediction, x_t, t)
    if not isinstance(t, Tensor):
        return _l_0(reverse, p, x_0) if t == 1 else _l_before(reverse, p, x_0, x_t, t)
    if reverse.schedule.num_timesteps == 1:
        return _l_0(reverse, p, x_0)
    if t.device.type == "cpu" and not torch.compiler.is_compiling() and int(t.min()) > 1:
        return _l_before(reverse, p, x_0, x_t, t)
    # The branch not taken must still have a finite value and gradient (0 · inf is NaN): q at t = 1 is a Dirac.
    is_first = (t == 1).reshape(-1, *(1,) * (x_0.ndim - 1))
    l_0 = _l_0(reverse, _harmless_unless(is_first, p, x_0), x_0)
    l_before = _l_before(reverse, _harmless_unless(~is_first, p, x_0), x_0, x_t, t.clamp(min=2))
    return torch.where(t == 1, l_0, l_before)


def _harmless_unless(taken: Tensor, p: Gaussian, x_0: Tensor) -> Gaussian:
    return Gaussian(torch.where(taken, p.mean, x_0), torch.where(taken, p.log_variance, 0.0))


def _l_0(reverse: ReverseProcess, p: Gaussian, x_0: Tensor) -> Tensor:
    return -reverse.decoder_of(p).log_prob(x_0)


def _l_before(reverse: ReverseProcess, p: Gaussian, x_0: Tensor, x_t: Tensor, t: Timestep) -> Tensor:
    return kl_divergence(reverse.forward_process.q_posterior(x_0, x_t, t), p)


def prior_term(reverse: ReverseProcess, x_0: Float[Tensor, "B *dims"]) -> Float[Tensor, "B"]:
    """L_T = KL[q(x_T|x_0) ‖ p(x_T)]: small, constant in θ, and reported all the same.

    Lecture: L_T, constant

    Returns:
        (B,) nats, summed over dimensions.
    """
    q = reverse.forward_process.q_marginal(x_0, reverse.schedule.num_timesteps)
    return kl_divergence(q, reverse.p_prior(x_0.shape))


@dataclass(frozen=True)
class VariationalBound:
    """−ln p_θ(x_0) ≤ total, in nats, term by term.

    Attributes:
        prior: (B,) L_T.
        transitions: (B, T−1) L_1 … L_{T−1}; column j is the divergence at t = j + 2.
        reconstruction: (B,) L_0.
        total: (B,) L_T + Σ L_{t−1} + L_0.
        bits_per_dim: (B,) the total, in bits per dimension.
    """

    prior: Tensor
    transitions: Tensor
    reconstruction: Tensor
    total: Tensor
    bits_per_dim: Tensor


@torch.no_grad()
def variational_bound(
    reverse: ReverseProcess,
    x_0: Float[Tensor, "B *dims"],
    *,
    generator: torch.Generator | None = None,
    label: Label = None,
) -> VariationalBound:
    """The whole bound as a sum of divergences, each at a draw x_t ~ q(x_t|x_0) of its own.

    T network calls on the batch; no gradient (for that, see ``bound_term``).

    Equation: Ho2020 (5)
    Lecture: loss, parts 4-6

    Args:
        reverse: p_θ.
        x_0: data on the 256-level grid, (B, ...).
        generator: where the noise comes from.
        label: int64 (B,), −1 for none.

    Returns:
        L_T, L_1 … L_{T−1} and L_0 in nats, whose sum is an unbiased estimate of the bound.
    """
    terms = [
        bound_term(reverse, x_0, randn(x_0, generator=generator), t, label=label)
        for t in range(1, reverse.schedule.num_timesteps + 1)
    ]
    return _record(reverse, x_0, terms)


def _record(reverse: ReverseProcess, x_0: Tensor, terms: list[Tensor]) -> VariationalBound:
    prior, reconstruction = prior_term(reverse, x_0), terms[0]
    transitions = torch.stack(terms[1:], dim=1) if len(terms) > 1 else reconstruction.new_zeros(len(x_0), 0)
    total = prior + transitions.sum(dim=1) + reconstruction
    return VariationalBound(
        prior, transitions, reconstruction, total, bits_per_dim=bits_per_dim(total, x_0[0].numel())
    )


@torch.no_grad()
def floor(reverse: ReverseProcess, x_0: Float[Tensor, "B *dims"]) -> VariationalBound:
    """The bound of a perfect network, x̂_0 = x_0: what schedule, variance and decoder cost whatever is learned.

    No network call. A learned variance is taken at its least, w = 0: β̃_t, for which the divergences are 0, and
    σ_1² = β̃_2 < β_1, for which L_0 is least. (Beyond the range, at an output below −1, L_0 could be less.)
    Without clipping a mean beyond black or white could make L_0 less, too.

    Args:
        reverse: p_θ; its network is not called.
        x_0: data on the 256-level grid, (B, ...).

    Returns:
        L_T, L_1 … L_{T−1} and L_0 in nats; no draw, so no error.
    """
    eps = torch.zeros_like(x_0)  # any would do: q and p_θ have the same mean at every x_t
    variance_output = -torch.ones_like(x_0) if reverse.variance.is_learned else None
    terms = []
    for t in range(1, reverse.schedule.num_timesteps + 1):
        x_t = reverse.forward_process.q_marginal(x_0, t).reparameterize(eps)
        output = reverse.parameterization.target(reverse.schedule, x_0, eps, t)
        prediction = Prediction(x_0=x_0, eps=eps, output=output, variance_output=variance_output)
        terms.append(bound_term_of(reverse, prediction, x_0, x_t, t))
    return _record(reverse, x_0, terms)


@torch.no_grad()
def path_bound(
    reverse: ReverseProcess,
    x_0: Float[Tensor, "B *dims"],
    *,
    generator: torch.Generator | None = None,
    label: Label = None,
) -> Float[Tensor, "B"]:
    """The bound before any rewriting: −ln p_θ(x_{0:T})/q(x_{1:T}|x_0) along one path drawn from q.

    −ln p(x_T) − Σ_{t≥1} ln p_θ(x_{t−1}|x_t)/q(x_t|x_{t−1}), as p_θ(x_{0:T}) = p(x_T) Π_t p_θ(x_{t−1}|x_t) and
    q(x_{1:T}|x_0) = Π_t q(x_t|x_{t−1}). T network calls on the batch; no gradient.

    Equation: Ho2020 (3)
    Lecture: joint, Markov
    Lecture: q(x_{1:T}|x_0)
    Lecture: loss, parts 1-3

    Args:
        reverse: p_θ.
        x_0: data on the 256-level grid, (B, ...).
        generator: where the path comes from.
        label: int64 (B,), −1 for none.

    Returns:
        (B,) nats, an unbiased estimate of the bound.
    """
    x_prev = x_0
    bound = x_0.new_zeros(len(x_0))
    for t in range(1, reverse.schedule.num_timesteps + 1):
        q = reverse.forward_process.q_transition(x_prev, t)
        x_t = q.sample(generator=generator)
        p = reverse.p_transition(x_t, t, label=label)
        log_p = -_l_0(reverse, p, x_0) if t == 1 else p.log_prob(x_prev)
        bound = bound - log_p + q.log_prob(x_t)
        x_prev = x_t
    return bound - reverse.p_prior(x_0.shape).log_prob(x_prev)
