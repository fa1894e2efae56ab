"""The numbers that describe a U-Net, checked at construction."""

from collections.abc import Sequence


def check_positive(name: str, value: int) -> None:
    """Refuse a count below 1."""
    if value < 1:
        raise ValueError(f"{name}={value} is not positive: give a whole number of at least 1")


def level_widths(base_width: int, multipliers: Sequence[int], groups: int) -> list[int]:
    """The width of each level, all divisible by `groups`, or a ValueError with advice."""
    if not multipliers or min(multipliers) < 1:
        raise ValueError(
            f"multipliers={tuple(multipliers)}: give one positive number per level, e.g. (1, 2, 2, 2)"
        )
    widths = [base_width * multiplier for multiplier in multipliers]
    for level, width in enumerate(widths):
        if width % groups:
            fits = max(g for g in range(1, groups + 1) if all(w % g == 0 for w in widths))
            raise ValueError(
                f"level {level} has {width} channels (base_width={base_width}), not divisible by "
                f"groups={groups}: set groups to {fits}, or base_width to a multiple of {groups}"
            )
    return widths


def check_attention_levels(attention_levels: Sequence[int], num_levels: int) -> None:
    """Refuse a level that the network does not have."""
    for level in attention_levels:
        if level not in range(num_levels):
            raise ValueError(
                f"attention level {level} is unknown: a network of {num_levels} levels has 0 (the finest) to "
                f"{num_levels - 1}; name levels, not resolutions"
            )


def num_heads(width: int, heads: int, head_dim: int | None) -> int:
    """The number of attention heads at a level of this width."""
    if head_dim is not None:
        if heads != 1:
            raise ValueError(f"heads={heads} and head_dim={head_dim} are both given: choose one of them")
        if head_dim < 1 or width % head_dim:
            raise ValueError(
                f"head_dim={head_dim} does not divide the {width} channels of a level with attention"
            )
        return width // head_dim
    if width % heads:
        raise ValueError(
            f"heads={heads} does not divide the {width} channels of a level with attention: "
            "choose heads, base_width and multipliers so that it does"
        )
    return heads
