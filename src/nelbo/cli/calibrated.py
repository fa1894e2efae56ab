"""Which preset is best for so many minutes on this machine."""

import math
from collections.abc import Callable

from nelbo.config import Config, check
from nelbo.presets import DEFAULT_PRESET, PRESETS

_TOO_SHORT = 2.0  # minutes, of which measuring would be a large part


def calibrated(config_of: Callable[[str], Config], minutes: float, device: str) -> str:
    """Measure the presets, from the smallest on, and say what came of it.

    Args:
        config_of: the configuration that the user's options make of a preset.
        minutes: of training.
        device: where.

    Returns:
        The name of a preset.

    Raises:
        ValueError: if the options make no network of the smallest preset.
    """
    from rich.console import Console

    from nelbo.calibration import best_preset, cost_of, images_in
    from nelbo.terminal import say

    if not minutes >= _TOO_SHORT:
        return DEFAULT_PRESET
    console, costs, images = Console(), {}, math.inf
    for name, preset in PRESETS.items():
        if images < preset.worth_from:
            break  # it sees no more images than the smaller one before it
        config = config_of(name)
        try:
            check(config)
            costs[name] = cost_of(config, device)
        except ValueError:
            if name == DEFAULT_PRESET:
                raise
            break  # the user's options make no network of this preset
        images, rate = images_in(costs[name], minutes), costs[name].images_per_second
        worth = f", worth it from {preset.worth_from:,}" if preset.worth_from else ""
        say(console, f"{name}: {rate:.0f} images/s here, {images:,} images in {minutes:g} minutes{worth}")
    best = best_preset(costs, minutes)
    say(console, f"training with --preset {best}")
    return best
