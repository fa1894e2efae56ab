"""What lossless image formats spend on the same pictures: a yardstick that everybody knows."""

import io
from collections.abc import Iterable

import numpy as np
from PIL import Image

_FORMATS: dict[str, dict[str, bool | int]] = {
    "PNG": {"optimize": True},
    "WebP": {"lossless": True, "quality": 100, "method": 6},
}


def codec_bits_per_dim(images: Iterable[np.ndarray], image_format: str) -> float:
    """The mean size of an image in a lossless format, headers included, in bits per dimension.

    Args:
        images: uint8 (C, H, W) each, C = 1 or 3.
        image_format: "PNG" or "WebP".
    """
    num_bytes = num_dims = 0
    for image in images:
        pixels = image.transpose(1, 2, 0)
        picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        stream = io.BytesIO()
        picture.save(stream, format=image_format, **_FORMATS[image_format])
        num_bytes += stream.tell()
        num_dims += image.size
    return 8 * num_bytes / num_dims
