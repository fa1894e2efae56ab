"""Pictures of samples: single files, a grid, and the reverse process as an animation."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from nelbo.data import levels_to_unit, unit_to_levels
from nelbo.evaluation.neighbours import Memorisation
from nelbo.files import written_whole

_GAP, _CAPTION_HEIGHT = 2, 16


def to_pictures(x: Tensor) -> list[Image.Image]:
    """Images (B, C, H, W) on [−1, 1], C = 1 or 3, as Pillow images."""
    levels = unit_to_levels(x.detach().cpu()).permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(u[..., 0] if u.shape[2] == 1 else u) for u in levels]


def grid(
    pictures: Sequence[Image.Image],
    *,
    columns: int | None = None,
    scale: int = 1,
    captions: Sequence[str] = (),
) -> Image.Image:
    """One picture of many, nearly square unless ``columns`` is given, each enlarged ``scale`` times.

    Args:
        pictures: of one size and mode.
        columns: how many beside each other.
        scale: how many times to enlarge them.
        captions: a line under each; what does not fit is cut short.
    """
    columns = columns or math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    width, height = (side * scale for side in pictures[0].size)
    line = _CAPTION_HEIGHT if captions else 0
    mode = "RGB" if captions else pictures[0].mode
    sheet = Image.new(mode, (columns * (width + _GAP) + _GAP, rows * (height + line + _GAP) + _GAP), "white")
    for index, picture in enumerate(pictures):
        left = _GAP + index % columns * (width + _GAP)
        top = _GAP + index // columns * (height + line + _GAP)
        sheet.paste(picture.resize((width, height), Image.Resampling.NEAREST), (left, top))
        if captions:
            _write(sheet, captions[index], (left, top + height), width)
    return sheet


def _write(sheet: Image.Image, text: str, place: tuple[int, int], width: int) -> None:
    """A line of text, in the middle of so many pixels, cut short where it is longer."""
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_CAPTION_HEIGHT - 5)
    shown = text
    while len(shown) > 1 and draw.textlength(shown, font) > width:
        shown = shown.removesuffix("…")[:-1] + "…"
    spare = width - draw.textlength(shown, font)
    draw.text((place[0] + spare / 2, place[1] + 1), shown, fill="black", font=font)


def film_strip(states: Sequence[tuple[str, Tensor]], scale: int = 1) -> Image.Image:
    """Stages of the same images (B, C, H, W) from left to right, each with its caption, an image in each row."""
    columns = [to_pictures(x) for _, x in states]
    rows = [column[i] for i in range(len(columns[0])) for column in columns]
    captions = [caption for _ in columns[0] for caption, _ in states]
    return grid(rows, columns=len(columns), scale=scale, captions=captions)


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
