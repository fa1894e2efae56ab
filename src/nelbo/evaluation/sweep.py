"""One sweep over a model: every network call pays for the bound, its error bar, and what follows from them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nelbo import randomness
from nelbo.bound import bound_term_of, prior_term
from nelbo.data import levels_to_unit
from nelbo.evaluation.plan import Plan
from nelbo.randomness import Purpose
from nelbo.reverse import ReverseProcess
from nelbo.units import bits_per_dim

OnBatch = Callable[[int], None]
_DRAWS_PER_IMAGE = 1 << 20


@dataclass(frozen=True)
class Round:
    """One pass over images, a draw from every slot of a plan for each.

    Attributes:
        images: int64 (N,), which images.
        t: int64 (N, K), the steps drawn.
        weights: float64 (N, K): the sum of weight × term over the slots is unbiased for the bound less L_T.
        terms: float64 (N, K) by variant of the model, bits/dim.
        errors: float64 (N, K), ‖x_0 − x̂_0‖²/d.
    """

    images: Tensor
    t: Tensor
    weights: Tensor
    terms: dict[str, Tensor]
    errors: Tensor

    def totals(self, variant: str) -> Float[Tensor, "N"]:
        """The estimate of Σ_t L_{t−1} and L_0 of each image, bits/dim."""
        return (self.weights * self.terms[variant]).sum(dim=1)


@torch.no_grad()
def one_round(
    variants: Mapping[str, ReverseProcess],
    images: np.ndarray,
    plan: Plan,
    *,
    number: int,
    seed: int = 0,
    is_pilot: bool = False,
    chosen: Sequence[int] | None = None,
    batch_size: int = 64,
    on_batch: OnBatch | None = None,
    on_errors: Callable[[Tensor, Tensor, Tensor], None] | None = None,
) -> Round:
    """Draw from every slot for every image.

    Args:
        variants: models that share one network, schedule and clipping, and differ in variance or decoder; they
            are judged on the same predictions.
        images: uint8 (N, C, H, W); never augmented.
        plan: what to draw.
        number: of the round; every round draws anew.
        seed: with the image's index, the round and the slot it decides the draw, and nothing else does.
        is_pilot: the pilot's draws are its own.
        chosen: indices of the images to take; all of them if None.
        batch_size: draws per network call.
        on_batch: called with the number of network evaluations just done.
        on_errors: called with t (B,), x_0 and x_0 − x̂_0 (B, C, H, W) of every batch.
    """
    # One that learned its variance asks the network for that, too; the others do without.
    reverse = max(variants.values(), key=lambda variant: variant.variance.is_learned)
    device, dtype = device_and_dtype(reverse)
    which = torch.arange(len(images)) if chosen is None else torch.as_tensor(chosen)
    num_slots, num_dims = len(plan.slots), int(np.prod(images.shape[1:]))
    # Slot by slot, so that the decoder's draws, at t = 1, stand together.
    slots = torch.arange(num_slots).repeat_interleave(len(which))
    owners = which.repeat(num_slots)
    numbers = owners * _DRAWS_PER_IMAGE + number * num_slots + slots
    step = int(is_pilot)
    t, weights = plan.draw(slots, randomness.uniform(seed, Purpose.EVALUATION_TIMESTEP, numbers, step=step))
    found: dict[str, list[Tensor]] = {name: [] for name in variants}
    errors = []
    for start in range(0, len(owners), batch_size):
        part = slice(start, start + batch_size)
        levels = torch.from_numpy(images[owners[part].numpy()]).to(device)
        x_0, steps = levels_to_unit(levels, dtype), t[part].to(device)
        eps = randomness.normal(
            seed,
            Purpose.EVALUATION_NOISE,
            numbers[part].to(device),
            x_0.shape[1:],
            step=step,
            dtype=dtype,
        )
        x_t = reverse.forward_process.q_marginal(x_0, steps).reparameterize(eps)
        prediction = reverse.predict(x_t, steps)
        for name, variant in variants.items():
            term = bound_term_of(variant, prediction, x_0, x_t, steps)
            found[name].append(bits_per_dim(term.double(), num_dims).cpu())
        residual = x_0 - prediction.x_0
        errors.append(residual.flatten(1).double().square().mean(dim=1).cpu())
        if on_errors is not None:
            on_errors(t[part], x_0, residual)
        if on_batch is not None:
            on_batch(len(steps))

    def by_image(values: Tensor) -> Tensor:
        return values.reshape(num_slots, len(which)).T.contiguous()

    return Round(
        images=which,
        t=by_image(t),
        weights=by_image(weights),
        terms={name: by_image(torch.cat(values)) for name, values in found.items()},
        errors=by_image(torch.cat(errors)),
    )


def priors(reverse: ReverseProcess, images: np.ndarray, batch_size: int = 64) -> Float[Tensor, "N"]:
    """L_T of each image, bits/dim; no network call."""
    _, dtype = device_and_dtype(reverse)
    device = reverse.schedule.betas.device
    found = []
    for start in range(0, len(images), batch_size):
        x_0 = levels_to_unit(torch.from_numpy(images[start : start + batch_size].copy()).to(device), dtype)
        found.append(bits_per_dim(prior_term(reverse, x_0).double(), x_0[0].numel()).cpu())
    return torch.cat(found)


def device_and_dtype(reverse: ReverseProcess) -> tuple[torch.device, torch.dtype]:
    """Where a model is, and the precision of what surrounds its network: float32 or better."""
    parameter = next(reverse.parameters(), None)
    device = reverse.schedule.betas.device if parameter is None else parameter.device
    return device, torch.promote_types(torch.float32 if parameter is None else parameter.dtype, torch.float32)
