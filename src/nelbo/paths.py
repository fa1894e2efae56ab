"""Which K of the T steps a short sampler takes."""

from collections.abc import Callable


def even(num_timesteps: int, num_steps: int) -> list[int]:
    """K steps at equal distances, from 1 to T; with K = 1, T alone."""
    _check(num_timesteps, num_steps)
    if num_steps == 1:
        return [num_timesteps]
    return [1 + round(k * (num_timesteps - 1) / (num_steps - 1)) for k in range(num_steps)]


def quadratic(num_timesteps: int, num_steps: int) -> list[int]:
    """K steps, closer together near the data: t_k grows as k².

    Equation: Song2021 appendix D.2
    """
    _check(num_timesteps, num_steps)
    if num_steps == 1:
        return [num_timesteps]
    raw = [1 + round((k / (num_steps - 1)) ** 2 * (num_timesteps - 1)) for k in range(num_steps)]
    steps = [raw[0]]
    for step in raw[1:]:
        steps.append(max(step, steps[-1] + 1))
    return steps


PATHS: dict[str, Callable[[int, int], list[int]]] = {"even": even, "quadratic": quadratic}


def _check(num_timesteps: int, num_steps: int) -> None:
    if not 1 <= num_steps <= num_timesteps:
        raise ValueError(f"steps is {num_steps}; choose 1..{num_timesteps}, the steps of the schedule")
