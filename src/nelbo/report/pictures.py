"""Pictures of samples: single files, a grid, and the reverse process as an animation."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from nelbo.data import levels_to_unit, unit_to_levels
from nelbo.evaluation.neighbours import Memorisation
from nelbo.files import written_whole

_GAP = 2


def to_pictures(x: Tensor) -> list[Image.Image]:
    """Images (B, C, H, W) on [−1, 1], C = 1 or 3, as Pillow images."""
    levels = unit_to_levels(x.detach().cpu()).permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(u[..., 0] if u.shape[2] == 1 else u) for u in levels]


def grid(pictures: Sequence[Image.Image], *, columns: int | None = None, scale: int = 1) -> Image.Image:
    """One picture of many, nearly square unless ``columns`` is given, each enlarged ``scale`` times."""
    columns = columns or math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    width, height = (side * scale + _GAP for side in pictures[0].size)
    sheet = Image.new(pictures[0].mode, (columns * width + _GAP, rows * height + _GAP), "white")
    for index, picture in enumerate(pictures):
        enlarged = picture.resize((width - _GAP, height - _GAP), Image.Resampling.NEAREST)
        sheet.paste(enlarged, (_GAP + index % columns * width, _GAP + index // columns * height))
    return sheet


def scale_for(size: Sequence[int]) -> int:
    """How much to enlarge images of (height, width) so that a person sees their pixels."""
    return max(1, round(128 / max(size)))


def save_picture(picture: Image.Image, path: Path) -> Path:
    """Write a picture whole or not at all; the suffix decides the format."""
    with written_whole(path) as draft:
        picture.save(draft)
    return path


def save_animation(frames: Sequence[Image.Image], path: Path, *, milliseconds: int = 80) -> Path:
    """Write frames as an endless animated WebP or GIF, by the suffix; the last frame stays for two seconds."""
    durations = [milliseconds] * (len(frames) - 1) + [2000]
    with written_whole(path) as draft:
        frames[0].save(
            draft, save_all=True, append_images=list(frames[1:]), duration=durations, loop=0, quality=80
        )
    return path


def side_by_side(left: Image.Image, right: Image.Image) -> Image.Image:
    """Two pictures of one size beside each other."""
    both = np.concatenate([np.asarray(left), np.asarray(right)], axis=1)
    return Image.fromarray(both)


def nearest_pairs(
    samples: np.ndarray, train: np.ndarray, found: Memorisation, *, at_most: int = 36, scale: int = 1
) -> Image.Image:
    """Samples, each with its nearest training image on its right, the most suspicious first and framed in red.

    Args:
        samples: uint8 (N, C, H, W), C = 1 or 3, N ≥ 1.
        train: uint8 (M, C, H, W), the training images that ``found`` was found with.
        found: what ``memorisation`` returned; a training image that is near when mirrored is shown mirrored.
        at_most: how many pairs, at least 1.
        scale: how many times to enlarge them.
    """
    order = np.argsort(found.ratios, kind="stable")[:at_most]
    neighbours = train[found.nearest.indices[order]]
    mirrored = found.nearest.mirrored[order, None, None, None]
    neighbours = np.where(mirrored, neighbours[..., ::-1], neighbours)
    lefts, rights = (to_pictures(levels_to_unit(torch.from_numpy(u))) for u in (samples[order], neighbours))
    pairs = [
        ImageOps.expand(side_by_side(left, right).convert("RGB"), border=2, fill="red" if marked else "white")
        for left, right, marked in zip(lefts, rights, found.suspicious[order])
    ]
    return grid(pairs, columns=math.ceil(math.sqrt(len(pairs) / 2)), scale=scale)
