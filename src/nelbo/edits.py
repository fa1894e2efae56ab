"""Changing a person's own images: painting a part anew, redrawing, blending, cleaning; on the sampler's iterator.

Each takes the options of ``nelbo.sample`` (steps, path, sampler, seed, first, label, guidance, eta, threshold), and
gives its states: the last one's ``x_t`` is the result.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nelbo.paths import even
from nelbo.randomness import Purpose
from nelbo.reverse import ReverseProcess
from nelbo.samplers import Chain, SampleState, chain
from nelbo.schedule import NoiseSchedule

Images = Float[Tensor, "B C H W"]


def image_to_image(
    reverse: ReverseProcess, images: Images, *, strength: float, **options: Any
) -> Iterator[SampleState]:
    """Noise the images up to step strength · T, and draw on from there: alike in the large, new in the small.

    x_t ~ q(x_t|x_0), then p_θ down to x_0.

    Equation: Meng2022 algorithm 1

    Args:
        reverse: p_θ.
        images: (B, C, H, W) on [−1, 1].
        strength: above 0, which changes nothing, to 1, which keeps next to nothing.
        options: see the module.

    Raises:
        ValueError: for a strength outside (0, 1], or an option that ``sample`` would refuse.
    """
    if not 0 < strength <= 1:
        raise ValueError(f"strength is {strength}; give a number above 0 and up to 1, such as 0.5")
    way = chain(reverse, images.shape, **options)
    last = strength * reverse.schedule.num_timesteps
    k = max(1, sum(t <= last for t in way.timesteps))
    x_0 = _as_drawn(images, way)
    x_t = way.reverse.forward_process.q_marginal(x_0, k).reparameterize(way.noise(Purpose.PRIOR))
    return way.states(x_t, k)


def denoise(
    reverse: ReverseProcess, noisy: Images, *, noise_level: float, **options: Any
) -> Iterator[SampleState]:
    """Take white noise of a known level off images: √ᾱ_t · image is an x_t, at the t where the levels agree.

    Args:
        reverse: p_θ.
        noisy: (B, C, H, W), images on [−1, 1] plus noise; may lie beyond.
        noise_level: σ of the noise, in units of the images: 2/255 is one level of 256.
        options: see the module; a path is laid over the steps up to that t, so give ``steps``, not ``path``;
            without them, every step is taken.

    Raises:
        ValueError: for a level that is not positive, a path, or an option that ``sample`` would refuse.
    """
    if not noise_level > 0:
        raise ValueError(f"noise_level is {noise_level}; give the σ of the noise, above 0")
    if "path" in options:
        raise ValueError("the path follows from the noise level; give steps alone")
    t = step_of_noise(reverse.schedule, noise_level)
    steps = options.pop("steps", None)
    way = chain(reverse, noisy.shape, path=even(t, min(t, steps or t)), **options)
    x_t = _as_drawn(noisy, way) * float(reverse.schedule.alphas_bar[t].sqrt())
    return way.states(x_t, len(way.timesteps))


def step_of_noise(schedule: NoiseSchedule, noise_level: float) -> int:
    """The t in 1..T whose √((1−ᾱ_t)/ᾱ_t), the noise over the signal, is nearest in the logarithm."""
    distance = (-0.5 * schedule.snr[1:].log() - torch.tensor(noise_level, dtype=torch.float64).log()).abs()
    return 1 + int(distance.argmin())


def inpaint(
    reverse: ReverseProcess, images: Images, mask: Tensor, *, resamplings: int = 5, **options: Any
) -> Iterator[SampleState]:
    """Paint a part anew, to fit the rest: at every step what is known is put back, noised as it should be.

    x_{t−1} = m · (drawn from p_θ) + (1 − m) · (drawn from q(x_{t−1}|x_0)). Each step is taken several times, with
    noise back up in between, so that both parts get to know of each other.

    Equation: Lugmayr2022 algorithm 1

    Args:
        reverse: p_θ.
        images: (B, C, H, W) on [−1, 1].
        mask: broadcastable to the images: 1 (or True) where to paint, 0 where to keep. The known part comes back
            exactly.
        resamplings: how often each step is taken; 1 is fast and shows seams.
        options: see the module.

    Raises:
        ValueError: for a mask that does not fit, resamplings below 1, or an option that ``sample`` would refuse.
    """
    if resamplings < 1:
        raise ValueError(f"resamplings is {resamplings}; give at least 1")
    try:
        mask = torch.broadcast_to(mask, images.shape)
    except RuntimeError as error:
        raise ValueError(
            f"a mask of {tuple(mask.shape)} does not fit images of {tuple(images.shape)}"
        ) from error
    way = chain(reverse, images.shape, **options)
    known = _as_drawn(images, way)
    paint = mask.to(known.device) > 0.5

    def keep(x: Tensor, k: int) -> Tensor:
        if k == 0:
            return torch.where(paint, x, known)
        marginal = way.reverse.forward_process.q_marginal(known, k)
        return torch.where(paint, x, marginal.reparameterize(way.noise(Purpose.KNOWN_NOISE, step=k)))

    top = len(way.timesteps)
    x_T = keep(way.noise(Purpose.PRIOR), top)
    return way.states(x_T, top, keep=keep, resamplings=resamplings)


def interpolate(
    reverse: ReverseProcess, one: Tensor, other: Tensor, *, num: int, **options: Any
) -> Iterator[SampleState]:
    """A row of images from one to another: both are led up to their x_T, and the arc between these comes down.

    Both ways follow DDIM, which is deterministic, so that the two ends come back, but for its error.

    Equation: Song2021 section 5.3

    Args:
        reverse: p_θ.
        one: (C, H, W) on [−1, 1].
        other: the same.
        num: how many images, both ends included, at least 2.
        options: see the module; the sampler is DDIM, and a label is of ``num`` images.

    Raises:
        ValueError: for fewer than two images, another sampler, or an option that ``sample`` would refuse.
    """
    if num < 2:
        raise ValueError(f"num is {num}; give at least 2, the two ends")
    if options.setdefault("sampler", "ddim") != "ddim" or options.get("eta"):
        raise ValueError("images are led up and down by DDIM with eta 0; leave sampler and eta out")
    way = chain(reverse, (num, *one.shape), **options)
    with torch.no_grad():
        ends = _led_up(way, _as_drawn(torch.stack([one, other]), way))
    shares = torch.linspace(0, 1, num, dtype=ends.dtype, device=ends.device).reshape(-1, 1, 1, 1)
    a, b = ends
    angle = torch.arccos(((a * b).sum() / (a.norm() * b.norm())).clamp(-1 + 1e-7, 1 - 1e-7))
    arc = (torch.sin((1 - shares) * angle) * a + torch.sin(shares * angle) * b) / torch.sin(angle)
    return way.states(arc, len(way.timesteps))


def noised(reverse: ReverseProcess, images: Images, t: int, *, seed: int = 0, first: int = 0) -> Tensor:
    """x_t ~ q(x_t|x_0) of images, with the same noise at every t: the forward process, to look at. t may be 0."""
    way = chain(reverse, images.shape, steps=1, seed=seed, first=first)
    x_0 = _as_drawn(images, way)
    return (
        x_0 if t == 0 else reverse.forward_process.q_marginal(x_0, t).reparameterize(way.noise(Purpose.PRIOR))
    )


def _led_up(way: Chain, x_0: Tensor) -> Tensor:
    """x_K of both ends: DDIM's step the other way, x_{k+1} = √ᾱ_{k+1} x̂_0 + √(1−ᾱ_{k+1}) ε̂, seen from x_k."""
    label = None if way.label is None else way.label[[0, -1]]
    free, x = way.reverse.with_clip(False), x_0
    for k in range(1, len(way.timesteps) + 1):
        seen = free.predict(x, max(k - 1, 1), label=label, guidance=way.guidance)
        x = free.forward_process.q_marginal(x_0 if k == 1 else seen.x_0, k).reparameterize(seen.eps)
    return x


def _as_drawn(images: Tensor, way: Chain) -> Tensor:
    return images.to(way.images.device, way.dtype)
