"""The bytes of one image file → one uint8 array (C, H, W).

Every mode becomes RGB (or L): alpha is composited on the background before any resizing, so that the colour
hidden under transparent pixels never bleeds into an edge; 16 bits become 8 by dividing by 257; EXIF rotation
is applied; an animation gives its first frame. Floating-point files are refused: nothing in them says
what white is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Literal

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from nelbo.data.errors import DataError

REDUCING_GAP = 3.0
"""Large reductions go by boxes (or in the JPEG decoder) down to this many times the size, then by Lanczos."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class IntakeOptions:
    """How images are brought to one size and colour.

    Attributes:
        image_size: (height, width) in pixels, each at least 1.
        channels: 3 (RGB) or 1 (gray).
        fit: "crop" scales to cover and cuts out the centre; "pad" scales to fit, fills with the background.
        background: (red, green, blue), each 0..255: what lies under transparency and around padded images.

    Raises:
        DataError: on construction, a value out of range.
    """

    image_size: tuple[int, int] = (64, 64)
    channels: int = 3
    fit: Literal["crop", "pad"] = "crop"
    background: tuple[int, int, int] = (255, 255, 255)

    def __post_init__(self) -> None:
        if len(self.image_size) != 2 or min(self.image_size) < 1:
            raise DataError(f"image_size must be (height, width), each at least 1, got {self.image_size}")
        if self.channels not in (1, 3):
            raise DataError(f"channels must be 3 (RGB) or 1 (gray), got {self.channels}")
        if self.fit not in ("crop", "pad"):
            raise DataError(f"fit must be 'crop' or 'pad', got {self.fit!r}")
        if len(self.background) != 3 or not all(0 <= level <= 255 for level in self.background):
            raise DataError(f"background must be (red, green, blue), each 0..255, got {self.background}")


def decode(raw: bytes, options: IntakeOptions) -> np.ndarray:
    """Decode, convert and resize one image file.

    Args:
        raw: The file's bytes, in any format that Pillow reads (EPS excepted: it would run Ghostscript).
        options: Size, channels, fit, background.

    Returns:
        uint8 (C, H, W).

    Raises:
        Exception: whatever Pillow raises on a bad file; the message is the reason.
    """
    if not raw:
        raise ValueError("empty file (0 bytes)")
    try:
        image = Image.open(BytesIO(raw), formats=_formats())
    except UnidentifiedImageError:
        raise ValueError("not an image that Pillow can read") from None
    with image:
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and image.width * image.height > limit:
            raise ValueError(
                f"{image.width}×{image.height} pixels: more than {limit:,}, a decompression bomb?"
            )
        orientation = _orientation(image)
        region = (float(image.width), float(image.height))
        if image.format in ("JPEG", "MPO"):
            region = _draft(image, options, turned=orientation >= 5) or region
        image.load()
        if image.format == "TIFF":  # turns itself upright on loading, and drops the tag
            orientation, region = _orientation(image), (float(image.width), float(image.height))
        return _resized(*_upright(_colour(image, options), region, orientation), options)


def decode_array(pixels: np.ndarray, options: IntakeOptions) -> np.ndarray:
    """Convert and resize one image that is an array already.

    Args:
        pixels: uint8 (H, W), (H, W, 3) or (H, W, 4); the fourth channel is alpha.
        options: Size, channels, fit, background.

    Returns:
        uint8 (C, H, W).
    """
    image = _colour(Image.fromarray(np.ascontiguousarray(pixels)), options)
    return _resized(image, (0.0, 0.0, float(image.width), float(image.height)), options)


@cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in Image.ID if name != "EPS"]


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation 1..8; 1 where there is none or the EXIF block is damaged."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _draft(image: Image.Image, options: IntakeOptions, *, turned: bool) -> tuple[float, float] | None:
    """Let the JPEG decoder drop to 1/2, 1/4 or 1/8, where that leaves REDUCING_GAP times the target.

    Returns:
        The (width, height) that the picture then fills, as its last row and column may lie partly beyond its
        edge; None if it is decoded in full.
    """
    height, width = reversed(options.image_size) if turned else options.image_size
    larger = max if options.fit == "crop" else min
    scale = REDUCING_GAP * larger(width / image.width, height / image.height)
    if scale >= 0.5:
        return None
    drafted = image.draft(None, (math.ceil(image.width * scale), math.ceil(image.height * scale)))
    return None if drafted is None else (drafted[1][2], drafted[1][3])


def _colour(image: Image.Image, options: IntakeOptions) -> Image.Image:
    """Any mode as RGB, or as L for one channel."""
    if image.mode == "F":
        raise ValueError("floating-point pixels, which have no stated range; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    if image.has_transparency_data:
        canvas = Image.new("RGBA", image.size, (*options.background, 255))
        image = Image.alpha_composite(canvas, image.convert("RGBA")).convert("RGB")
    mode = "L" if options.channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit gray as 8-bit gray: level/257, rounded, so that 65535 is 255."""
    levels = np.asarray(image).astype(np.int64)
    # Pillow gives 16-bit PNG and PPM as 32-bit integers in some versions; elsewhere these have no range.
    if image.mode == "I" and (image.format not in ("PNG", "PPM") or levels.min() < 0 or levels.max() > 65535):
        raise ValueError("32-bit integer pixels, which have no stated range; save it with 8 or 16 bits")
    return Image.fromarray(((levels + 128) // 257).astype(np.uint8))


def _upright(
    image: Image.Image, region: tuple[float, float], orientation: int
) -> tuple[Image.Image, tuple[float, float, float, float]]:
    """Turn an image as its EXIF orientation says.

    Args:
        image: As stored.
        region: The (width, height) that the picture fills, from the top left.
        orientation: 1..8.

    Returns:
        The image turned, and the box (left, top, right, bottom) that the picture fills in it.
    """
    right, bottom = image.width - region[0], image.height - region[1]
    if orientation >= 5:
        right, bottom = bottom, right
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    left, right = (right, 0.0) if orientation in (2, 3, 6, 7) else (0.0, right)
    top, bottom = (bottom, 0.0) if orientation in (3, 4, 7, 8) else (0.0, bottom)
    return image, (left, top, image.width - right, image.height - bottom)


def _resized(
    image: Image.Image, box: tuple[float, float, float, float], options: IntakeOptions
) -> np.ndarray:
    """Crop or pad the box of an RGB or L image to the size asked for, antialiased; uint8 (C, H, W)."""
    height, width = options.image_size
    left, top, right, bottom = box
    if options.fit == "crop":
        scale = max(width / (right - left), height / (bottom - top))
        cut_x, cut_y = max(0.0, right - left - width / scale), max(0.0, bottom - top - height / scale)
        box = (left + cut_x / 2, top + cut_y / 2, right - cut_x / 2, bottom - cut_y / 2)
        image = image.resize((width, height), Image.Resampling.LANCZOS, box, REDUCING_GAP)
    else:
        scale = min(width / (right - left), height / (bottom - top))
        size = (max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale)))
        inner = image.resize(size, Image.Resampling.LANCZOS, box, REDUCING_GAP)
        image = Image.new("RGB", (width, height), options.background).convert(inner.mode)
        image.paste(inner, ((width - size[0]) // 2, (height - size[1]) // 2))
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))
