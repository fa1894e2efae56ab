import io

import numpy as np
import pytest
from PIL import Image

from nelbo.evaluation.codecs import codec_bits_per_dim

OPTIONS = {"PNG": {"optimize": True}, "WebP": {"lossless": True, "quality": 100, "method": 6}}


def noise(num, channels):
    return np.random.default_rng(0).integers(0, 256, (num, channels, 12, 20), dtype=np.uint8)


@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_it_is_pillows_own_size_of_the_picture(kind, channels):
    """A stream that decodes to the very pixels, and whose length is what is counted."""
    images = noise(3, channels)
    num_bytes = 0
    for image in images:
        stream = io.BytesIO()
        pixels = image[0] if channels == 1 else np.moveaxis(image, 0, -1)
        Image.fromarray(pixels).save(stream, kind, **OPTIONS[kind])
        num_bytes += len(stream.getvalue())
        decoded = Image.open(stream).convert("L" if channels == 1 else "RGB")
        np.testing.assert_array_equal(np.asarray(decoded), pixels)
    expected = 8 * num_bytes / (3 * channels * 12 * 20)
    assert codec_bits_per_dim(images, kind) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", OPTIONS)
def test_noise_costs_8_bits_and_a_flat_image_next_to_none(kind):
    # Noise cannot be compressed: 8 bits, and a header of some 60 bytes for 720.
    assert 8 <= codec_bits_per_dim(noise(2, 3), kind) < 9.1
    flat = np.full((1, 3, 64, 64), 77, dtype=np.uint8)
    assert codec_bits_per_dim(flat, kind) < 0.15
