"""At which t a training step looks, and what each loss then counts: uniform, or by the size of the losses so far.

A picture's shape is decided at high noise, its bits are spent at low noise: a shift says which to learn first.

The bound's terms differ by orders of magnitude from t to t, and so do their gradients. Drawing the large ones more
often, and counting each by 1/(T p_t), has the same expectation and less noise.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nelbo import paths
from nelbo.objectives import uniform_timesteps

HISTORY_LENGTH = 10
UNIFORM_SHARE = 1e-3


class LossHistory:
    """The last ten losses of each t, on the CPU.

    Attributes:
        losses: float32 (T, 10). Row t − 1 is a ring: the n-th loss at t, from 0, stands in column n mod 10.
        counts: int64 (T,), how many losses each t has had.
    """

    def __init__(self, num_timesteps: int) -> None:
        self.losses = torch.zeros(num_timesteps, HISTORY_LENGTH)
        self.counts = torch.zeros(num_timesteps, dtype=torch.int64)

    @property
    def is_full(self) -> bool:
        """Whether every t has had ten losses."""
        return bool((self.counts >= HISTORY_LENGTH).all())

    def add(self, t: Int[Tensor, "B"], losses: Float[Tensor, "B"]) -> None:
        """Keep the losses of a batch, as they are before they are weighted; they push out the oldest."""
        for row, loss in zip((t - 1).tolist(), losses.tolist()):
            self.losses[row, int(self.counts[row]) % HISTORY_LENGTH] = loss
            self.counts[row] += 1

    def probabilities(self) -> Float[Tensor, "T"]:
        """p_t ∝ √E[L_t²] over the last ten losses of each t, and one thousandth of the uniform distribution.

        Equation: Nichol2021 (18)

        Returns:
            float64 (T,), index t − 1; all positive, sum 1.
        """
        sizes = self.losses.double().square().mean(1).sqrt()
        return (1 - UNIFORM_SHARE) * sizes / sizes.sum() + UNIFORM_SHARE / len(sizes)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps, by name."""
        return {"losses": self.losses, "counts": self.counts}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take over what ``tensors()`` gave.

        Raises:
            KeyError: if one is missing.
            ValueError: if it is the history of another number of steps.
        """
        for name, own in self.tensors().items():
            if tensors[name].shape != own.shape:
                raise ValueError(
                    f"its history of losses has {len(tensors[name])} steps, this run has {len(own)}"
                )
            own.copy_(tensors[name])


def draw_timesteps(
    uniforms: Float[Tensor, "B"], num_timesteps: int, history: LossHistory | None, shift: float = 1.0
) -> tuple[Int[Tensor, "B"], Float[Tensor, "B"]]:
    """The t at which p's cumulative distribution passes each uniform number, and its weight 1/(T p_t).

    Without a history, or while it is not full, p is uniform, but for the shift, and the weights are 1: a shift is a
    weighting ω_t of the loss, not an importance sampling of it.

    Args:
        uniforms: float64 (B,) in [0, 1), each uniform on its own.
        num_timesteps: T.
        history: the losses that p is made of.
        shift: s of ``paths.shift``; 1 for none.

    Returns:
        t in 1..T and float64 weights, both (B,) on the device of ``uniforms``. Unshifted, the mean of weight · L_t
        has the expectation of the mean of L_t over uniform t.
    """
    if history is None or not history.is_full:
        return uniform_timesteps(paths.shift(uniforms, shift), num_timesteps), torch.ones_like(uniforms)
    probabilities = history.probabilities()
    cumulative = probabilities.cumsum(0)
    index = torch.searchsorted(cumulative / cumulative[-1], uniforms.cpu(), right=True)
    weights = 1 / (num_timesteps * probabilities[index])
    return (index + 1).to(uniforms.device), weights.to(uniforms.device)
