"""Which class each drawn image is of."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def labels_for(
    class_names: Sequence[str], first: int, size: int, device: "torch.device", chosen: Sequence[str] = ()
) -> "torch.Tensor | None":
    """The labels of the images ``first`` … ``first + size − 1``: class after class, round and round.

    Args:
        class_names: the classes that the model knows; none for a model without classes.
        first: the index of the first image.
        size: how many.
        device: where the labels are wanted.
        chosen: the names to go round; all classes if empty.

    Returns:
        int64 (size,), or None for a model without classes.

    Raises:
        ValueError: for a name that the model does not know.
    """
    import torch

    for name in chosen:
        if name not in class_names:
            known = (
                f"it knows {', '.join(class_names)}" if class_names else "it was trained without --classes"
            )
            raise ValueError(f"the model has no class {name!r}: {known}")
    if not class_names:
        return None
    labels = [class_names.index(name) for name in chosen] or list(range(len(class_names)))
    return torch.tensor([labels[i % len(labels)] for i in range(first, first + size)], device=device)
