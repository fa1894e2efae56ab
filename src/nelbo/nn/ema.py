"""An exponential moving average of a network's weights, whose half-life is counted in images.

Source: Ho et al. 2020, appendix B (the average); Karras et al. 2022 (EDM), appendix F.2 and its code (the
half-life in images and its ramp-up).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EMA:
    """The moving average of a module's parameters, beside the module.

    After a step of n images with N seen, `average <- average + (1 - decay) (weights - average)`, with
    `decay = 0.5 ** (n / min(half_life_images, warmup_ratio * N))`. While N is small the average forgets fast,
    so that it never holds a noticeable share of the initial weights.

    The average is float32 or better, and stays on the device that the module is on at construction.
    Give the bare module, not the one that `torch.compile` or DDP wraps, or the names get their prefixes.

    Args:
        module: the network being trained. Its buffers are copied, not averaged.
        half_life_images: the number of images after which a weight's share has halved (EDM: 500,000).
        warmup_ratio: the half-life as a share of the images seen so far, until that exceeds
            `half_life_images`. None for no warm-up.

    Raises:
        ValueError: if the half-life or the ratio is not positive.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        half_life_images: float | int = 500_000,
        warmup_ratio: float | int | None = 0.05,
    ) -> None:
        if not half_life_images > 0:
            raise ValueError(
                f"half_life_images={half_life_images} is not positive: give a number of images, e.g. 500000"
            )
        if warmup_ratio is not None and not warmup_ratio > 0:
            raise ValueError(
                f"warmup_ratio={warmup_ratio} is not positive: give e.g. 0.05, or None for no warm-up"
            )
        self.half_life_images = half_life_images
        self.warmup_ratio = warmup_ratio
        self._module = module
        self._swapped = False
        self._parameters: dict[str, Tensor] = {}
        self._buffers: dict[str, Tensor] = {}
        for name, value in module.state_dict(keep_vars=True).items():
            if isinstance(value, nn.Parameter):
                dtype = torch.promote_types(value.dtype, torch.float32)
                self._parameters[name] = value.detach().to(dtype, copy=True)
            else:
                self._buffers[name] = value.detach().clone()

    def decay(self, num_images: int, images_seen: int) -> float:
        """The share of the old average that an update of `num_images` keeps.

        Args:
            num_images: the images of the step (the global batch).
            images_seen: the images seen in all so far.

        Returns:
            A number in [0, 1].
        """
        half_life = self.half_life_images
        if self.warmup_ratio is not None:
            half_life = min(half_life, self.warmup_ratio * images_seen)
        return 0.5 ** (num_images / half_life) if half_life > 0 else 0.0

    @torch.no_grad()
    def update(self, num_images: int, images_seen: int) -> None:
        """Move the average towards the module's weights, once per optimiser step.

        Args:
            num_images: the images of the step (the global batch).
            images_seen: the images seen in all so far.

        Raises:
            RuntimeError: inside `swapped_in`, where the module holds the average itself.
        """
        if self._swapped:
            raise RuntimeError("the module holds the average: leave `swapped_in` before the next update")
        live = self._module.state_dict(keep_vars=True)
        averages = list(self._parameters.values())
        weights = [live[name].detach().to(mean) for name, mean in self._parameters.items()]
        if averages:
            torch._foreach_lerp_(averages, weights, 1.0 - self.decay(num_images, images_seen))
        for name, buffer in self._buffers.items():
            buffer.copy_(live[name])

    def state_dict(self) -> dict[str, Tensor]:
        """The average and the buffers, by the names of the module's own `state_dict`; not copies."""
        return {**self._parameters, **self._buffers}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take the average over from `state`, as `state_dict` gave it; dtype and device stay as they are.

        Raises:
            ValueError: if names or shapes are not those of the module; nothing is changed then.
        """
        _check_same(self.state_dict(), state)
        for name, value in self.state_dict().items():
            value.copy_(state[name])

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Write the average into a module of the same architecture, in that module's own dtype.

        Raises:
            ValueError: if names or shapes differ.
        """
        target = module.state_dict()
        _check_same(target, self.state_dict())
        for name, value in self.state_dict().items():
            target[name].copy_(value)

    @contextmanager
    def swapped_in(self, module: nn.Module | None = None) -> Iterator[nn.Module]:
        """Let a module hold the average inside the `with` block, and its own weights again after it.

        Args:
            module: the module to change; by default the one that is averaged.

        Yields:
            The module.
        """
        module = self._module if module is None else module
        if self._swapped:
            raise RuntimeError("the average is swapped in already: leave the outer `swapped_in` first")
        own = {name: value.detach().clone() for name, value in module.state_dict().items()}
        self.copy_to(module)
        self._swapped = module is self._module
        try:
            yield module
        finally:
            self._swapped = False
            with torch.no_grad():
                for name, value in module.state_dict().items():
                    value.copy_(own[name])


def _check_same(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    missing, unknown = sorted(expected.keys() - given.keys()), sorted(given.keys() - expected.keys())
    if missing or unknown:
        raise ValueError(
            f"the names do not match: missing {missing[:5]} ({len(missing)}), unknown {unknown[:5]} "
            f"({len(unknown)}); both sides need the same architecture"
        )
    for name, value in expected.items():
        if value.shape != given[name].shape:
            raise ValueError(
                f"{name} has shape {tuple(given[name].shape)} where {tuple(value.shape)} is needed: "
                "both sides need the same architecture"
            )
