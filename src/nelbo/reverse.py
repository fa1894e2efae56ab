"""The reverse process p_θ: what the model is. It removes noise, step by step, and its last step is the data.

p_θ(x_{0:T}) = p(x_T) Π_t p_θ(x_{t−1}|x_t)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nelbo.forward import ForwardProcess
from nelbo.gaussian import Decoder, DiscretizedGaussian, Gaussian
from nelbo.parameterization import AbstractParameterization, Epsilon, eps_from_x_0
from nelbo.schedule import NoiseSchedule
from nelbo.tables import Timestep, check_timestep, gather
from nelbo.variance import AbstractVariance, FixedLarge

Network = Callable[..., Tensor]
Label = Int[Tensor, "B"] | None


@dataclass(frozen=True)
class Prediction:
    """What one network call says about x_t.

    Attributes:
        x_0: the estimate of x_0, (B, C, ...), clipped to [−1, 1] if the process clips.
        eps: the estimate of ε that agrees with ``x_0``.
        output: what the network itself said, before any clipping: ε, x_0 or v.
        variance_output: the network's second block of channels, if the variance is learned.
    """

    x_0: Tensor
    eps: Tensor
    output: Tensor
    variance_output: Tensor | None = None


def _clipped(x_0: Tensor, clip: bool | float) -> Tensor:
    if isinstance(clip, bool):
        return x_0.clamp(-1.0, 1.0)
    bounds = torch.quantile(x_0.abs().flatten(1), clip, dim=1).clamp(min=1.0)
    bounds = bounds.reshape(-1, *(1,) * (x_0.ndim - 1))
    return x_0.clamp(-bounds, bounds) / bounds


def check_guidance(guidance: float, label: Label) -> None:
    """Refuse guidance towards no class.

    Raises:
        ValueError: if ``guidance`` is not 1 and there is no label.
    """
    if guidance != 1.0 and label is None:
        raise ValueError(f"guidance {guidance:g} steers towards a class: give label=, or guidance=1")


class ReverseProcess(nn.Module):
    """p_θ: a network, a schedule, what the network predicts, and the variance of a step.

    Args:
        network: ``network(x_t, clock_t)`` or ``network(x_t, clock_t, label)`` → (B, C, ...), or (B, 2C, ...)
            where the variance is learned. The clock is an int64 tensor (B,): t − 1, unless respaced.
        schedule: β_1 … β_T.
        parameterization: what the network predicts.
        variance: σ_t².
        clip: keep x̂_0 within [−1, 1], in the bound as in the sampler: clipping is a part of the model. A share of
            the pixels, such as 0.995, asks for dynamic thresholding (Saharia et al. 2022): if the least bound of so
            many magnitudes is above 1, x̂_0 is clipped at that bound and divided by it.
        decoder: makes p_θ(x_0|x_1) of the last step's mean and log-variance; ``ReferenceDecoder`` for comparison
            with published numbers.
        variance_channels: the network returns (B, 2C, ...) although the variance is not learned: the second half
            is ignored. A learned variance implies it.
    """

    def __init__(
        self,
        network: Network,
        schedule: NoiseSchedule,
        parameterization: AbstractParameterization = Epsilon(),  # noqa: B008 (frozen, stateless)
        variance: AbstractVariance = FixedLarge(),  # noqa: B008
        clip: bool | float = True,
        decoder: Callable[[Tensor, Tensor], Decoder] = DiscretizedGaussian,
        *,
        variance_channels: bool = False,
    ) -> None:
        super().__init__()
        variance.check(schedule)
        if not isinstance(clip, bool) and not 0 < clip < 1:
            raise ValueError(f"clip is {clip}; give True, False, or a share of the pixels such as 0.995")
        self.network = network
        self.schedule = schedule
        self.parameterization = parameterization
        self.variance = variance
        self.clip = clip
        self.decoder = decoder
        self.variance_channels = variance_channels or variance.is_learned

    @property
    def forward_process(self) -> ForwardProcess:
        """The q that this p_θ reverses."""
        return self._forward_process

    @property
    def schedule(self) -> NoiseSchedule:
        """β_1 … β_T."""
        return self._forward_process.schedule

    @schedule.setter
    def schedule(self, schedule: NoiseSchedule) -> None:
        self._forward_process = ForwardProcess(schedule)

    def with_schedule(self, schedule: NoiseSchedule) -> "ReverseProcess":
        """The same network on another schedule, such as a respaced one."""
        return self._with(schedule=schedule)

    def with_variance(self, variance: AbstractVariance) -> "ReverseProcess":
        """The same network with another σ_t². If it learned one, a variance that is not learned ignores that."""
        return self._with(variance=variance)

    def with_clip(self, clip: bool | float) -> "ReverseProcess":
        """The same network with other clipping."""
        return self._with(clip=clip)

    def with_decoder(self, decoder: Callable[[Tensor, Tensor], Decoder]) -> "ReverseProcess":
        """The same network with another decoder, such as ``ReferenceDecoder``."""
        return self._with(decoder=decoder)

    def with_network(self, network: Network) -> "ReverseProcess":
        """The same process with another network, such as the same one in other arithmetic."""
        return self._with(network=network)

    def _with(self, **changes: Any) -> "ReverseProcess":
        parts = (
            "network",
            "schedule",
            "parameterization",
            "variance",
            "clip",
            "decoder",
            "variance_channels",
        )
        same = {name: getattr(self, name) for name in parts}
        process = ReverseProcess(**(same | changes))
        process.training = self.training  # (.train() would also put the shared network into that mode)
        return process

    def predict(
        self, x_t: Float[Tensor, "B *dims"], t: Timestep, *, label: Label = None, guidance: float = 1.0
    ) -> Prediction:
        """Estimate x_0 and ε from x_t, in one network call.

        Args:
            x_t: (B, C, ...).
            t: 1..T, an int or (B,).
            label: int64 (B,), −1 for none; only for a network with classes.
            guidance: w of classifier-free guidance, u + w (c − u); anything but 1 needs ``label`` and doubles
                the batch.
        """
        check_timestep(t, self.schedule.num_timesteps, len(x_t))
        check_guidance(guidance, label)
        if guidance == 1.0 or label is None:
            output, variance_output = self._call(x_t, t, label)
        else:
            output, variance_output = self._call_guided(x_t, t, label, guidance)
        x_0 = self.parameterization.x_0(self.schedule, output, x_t, t)
        if self.clip:
            x_0 = _clipped(x_0, self.clip)
            eps = eps_from_x_0(self.schedule, x_0, x_t, t)
        else:
            eps = self.parameterization.eps(self.schedule, output, x_t, t)
        return Prediction(x_0=x_0, eps=eps, output=output, variance_output=variance_output)

    def p_prior(self, shape: Sequence[int]) -> Gaussian:
        """p(x_T) = N(0, I), for images of this shape (B, C, ...).

        Lecture: x_T ~ N(0, I)
        """
        # float64, and of rank 0, so that draws keep the dtype of the mean.
        zero = self.schedule.betas.new_zeros(())
        return Gaussian(mean=zero.to(torch.get_default_dtype()).expand(*shape), log_variance=zero)

    def p_transition(self, x_t: Float[Tensor, "B *dims"], t: Timestep, *, label: Label = None) -> Gaussian:
        """p_θ(x_{t−1}|x_t) = N(μ_θ(x_t, t), Σ_θ(x_t, t)).

        μ_θ is the mean of the forward posterior with x̂_0 in the place of x_0.

        Equation: Ho2020 (11)
        Lecture: reverse process

        Args:
            x_t: (B, C, ...).
            t: 1..T, an int or (B,).
            label: int64 (B,), −1 for none.
        """
        return self.transition_of(self.predict(x_t, t, label=label), x_t, t)

    def transition_of(self, prediction: Prediction, x_t: Float[Tensor, "B *dims"], t: Timestep) -> Gaussian:
        """p_θ(x_{t−1}|x_t), from a prediction that is already at hand: q(x_{t−1}|x_t, x_0) at x_0 = x̂_0.

        Without clipping, its mean in terms of ε is μ_θ = (x_t − β_t/√(1−ᾱ_t) ε_θ)/√α_t, as μ̃_t is in terms of ε.

        Lecture: μ̃_t and μ_θ as functions of x_t and ε
        """
        posterior = self._forward_process.q_posterior(prediction.x_0, x_t, t)
        log_variance = self.variance.log_variance(self.schedule, t, x_t, prediction.variance_output)
        return Gaussian(mean=posterior.mean, log_variance=log_variance)

    def p_decoder(self, x_1: Float[Tensor, "B *dims"], *, label: Label = None) -> Decoder:
        """p_θ(x_0|x_1): the last step, as masses over the 256 levels of a pixel."""
        transition = self.p_transition(x_1, 1, label=label)
        return self.decoder_of(transition)

    def decoder_of(self, transition: Gaussian) -> Decoder:
        """p_θ(x_0|x_1), from the p_θ(x_{t−1}|x_t) of t = 1 that is already at hand."""
        return self.decoder(transition.mean, transition.log_variance)

    def _call(self, x_t: Tensor, t: Timestep, label: Label) -> tuple[Tensor, Tensor | None]:
        clock = gather(self.schedule.clock, t, x_t).flatten().expand(len(x_t))
        output = self.network(x_t, clock) if label is None else self.network(x_t, clock, label)
        expected = (x_t.shape[0], x_t.shape[1] * 2, *x_t.shape[2:]) if self.variance_channels else x_t.shape
        if output.shape != expected:
            ignored = self.variance_channels and not self.variance.is_learned
            raise ValueError(
                f"the network returned {tuple(output.shape)} for x_t of {tuple(x_t.shape)}; with"
                f" {type(self.variance).__name__}{' and variance_channels' * ignored} it must return"
                f" {tuple(expected)}"
            )
        output = output.to(torch.promote_types(x_t.dtype, torch.float32))
        if not self.variance_channels:
            return output, None
        mean_output, variance_output = output.chunk(2, dim=1)
        return mean_output, variance_output if self.variance.is_learned else None

    def _call_guided(
        self, x_t: Tensor, t: Timestep, label: Tensor, guidance: float
    ) -> tuple[Tensor, Tensor | None]:
        doubled_t = torch.cat([t, t]) if isinstance(t, Tensor) and t.numel() > 1 else t
        output, variance_output = self._call(
            torch.cat([x_t, x_t]), doubled_t, torch.cat([label, torch.full_like(label, -1)])
        )
        conditional, unconditional = output.chunk(2)
        variance = None if variance_output is None else variance_output[: len(x_t)]
        return unconditional + guidance * (conditional - unconditional), variance

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        device = fn(torch.zeros(0)).device
        if device.type != "mps":
            self.schedule = self.schedule.to(device)
        return self
