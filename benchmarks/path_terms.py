"""Both forms of the loss along one path of q, from the same network calls, and what their estimators vary by.

path form    −ln p_θ(x_{0:T})/q(x_{1:T}|x_0)     = Σ_t ln q(x_{t−1}|x_t, x_0)/p_θ(x_{t−1}|x_t) + the two ends
KL form      L_T + Σ_t L_{t−1} + L_0             = the same sum, each term's expectation given x_t and x_0
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from nelbo.bound import bound_term_of, prior_term
from nelbo.evaluation.plan import Plan
from nelbo.gaussian import Gaussian, sum_over_dims
from nelbo.reverse import ReverseProcess


@dataclass(frozen=True)
class PathTerms:
    """Both forms of the loss along the same paths of q, term by term, in nats.

    Attributes:
        log_ratios: (..., T+1): column t − 1 is ln q(x_{t−1}|x_t, x_0)/p(x_{t−1}|x_t), −ln p(x_0|x_1) at t = 1; the
            last one is ln q(x_T|x_0)/p(x_T). Their sum is what ``path_bound`` returns.
        divergences: (..., T+1): the expectation of each given x_t and x_0: L_0, L_1 … L_{T−1}, L_T.
        spreads: (..., T+1): the variance of each given x_t and x_0, nats²; 0 at t = 1.
    """

    log_ratios: Tensor
    divergences: Tensor
    spreads: Tensor

    def by_image(self, num_images: int) -> "PathTerms":
        """(N, M, T+1) of M paths from each of N images."""
        return PathTerms(*(values.double().unflatten(0, (num_images, -1)) for values in vars(self).values()))


def log_ratio_variance(q: Gaussian, p: Gaussian) -> Tensor:
    """Var ln q(x)/p(x) at x ~ q: Σ ½ (r − 1)² + r (μ_q − μ_p)²/σ_p², r = σ_q²/σ_p²; (B,) nats². 2 KL at r = 1."""
    r = torch.exp(q.log_variance - p.log_variance)
    return sum_over_dims(0.5 * (r - 1) ** 2 + r * (q.mean - p.mean) ** 2 * torch.exp(-p.log_variance))


@torch.no_grad()
def path_terms(
    reverse: ReverseProcess, x_0: Tensor, *, generator: torch.Generator | None = None
) -> PathTerms:
    """One path of q from each image, T network calls: the same draws as ``path_bound`` from the same generator."""
    q, num_timesteps = reverse.forward_process, reverse.schedule.num_timesteps
    x_t = x_0
    log_ratios, divergences, spreads = [], [], [x_0.new_zeros(len(x_0))]
    for t in range(1, num_timesteps + 1):
        x_prev, x_t = x_t, q.q_transition(x_t, t).sample(generator=generator)
        prediction = reverse.predict(x_t, t)
        divergences.append(bound_term_of(reverse, prediction, x_0, x_t, t))
        if t == 1:
            log_ratios.append(divergences[0])
            continue
        posterior, p = q.q_posterior(x_0, x_t, t), reverse.transition_of(prediction, x_t, t)
        log_ratios.append(posterior.log_prob(x_prev) - p.log_prob(x_prev))
        spreads.append(log_ratio_variance(posterior, p))
    q_T, p_T = q.q_marginal(x_0, num_timesteps), reverse.p_prior(x_0.shape)
    log_ratios.append(q_T.log_prob(x_t) - p_T.log_prob(x_t))
    divergences.append(prior_term(reverse, x_0))
    spreads.append(log_ratio_variance(q_T, p_T))
    return PathTerms(*(torch.stack(columns, dim=1) for columns in (log_ratios, divergences, spreads)))


def within(values: Tensor) -> Tensor:
    """The variance over draws, (N, M, ...), averaged over images: (...)."""
    return values.var(dim=1).mean(dim=0)


@dataclass(frozen=True)
class Variances:
    """Of whole-path estimators of the bound, T evaluations each, nats²."""

    path: float
    independent: float
    along: float
    difference: float
    weight: float
    combined: float


def variances(terms: PathTerms) -> Variances:
    """From (N, M, T+1) terms. A draw of its own at every t makes the terms' variances add up.

    The combination is w·path + (1 − w)·KL, whose variance is least at w = −Cov(KL, path − KL)/Var(path − KL).
    """
    path, along = terms.log_ratios.sum(dim=2), terms.divergences.sum(dim=2)
    difference = path - along
    covariance = (within(path) - within(along) - within(difference)) / 2
    weight = -covariance / within(difference)
    parts = (path, along, difference, along + weight * difference)
    of_path, of_along, of_difference, of_combined = (float(within(v)) for v in parts)
    independent = float(within(terms.divergences).sum())
    return Variances(of_path, independent, of_along, of_difference, float(weight), of_combined)


def round_variance(divergences: Tensor, plan: Plan) -> Tensor:
    """The within-image variance of one round of a plan, (N,), from (N, M, T+1) terms at every t; no further call.

    A slot draws t with probability p: Var(f/p) = Σ_t E f²/p − (Σ_t E f)², both without bias from M draws.
    """
    total = torch.zeros(len(divergences), dtype=torch.float64)
    for first, last in dict.fromkeys(plan.slots):
        terms, density = divergences[:, :, first - 1 : last], plan.density[first : last + 1]
        seconds = (terms.square() * density.sum() / density).sum(dim=2).mean(dim=1)
        sums = terms.sum(dim=2)
        squared_mean = sums.mean(dim=1).square() - sums.var(dim=1) / sums.shape[1]
        total += (seconds - squared_mean) / plan.slots.count((first, last))
    return total
