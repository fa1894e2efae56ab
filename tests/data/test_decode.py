"""What every mode and format becomes: pixels compared with numbers worked out by hand."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import ExifTags, Image

from nelbo.data.decode import IntakeOptions, decode, decode_array
from nelbo.data.errors import DataError

RED, WHITE = (255, 0, 0), (255, 255, 255)


def packed(image, format="PNG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def at(size=(8, 8), **options):
    """Options for a target of (width, height), so that it reads like Pillow's sizes."""
    return IntakeOptions(image_size=(size[1], size[0]), **options)


def palette_image():
    image = Image.new("P", (8, 8), 1)
    image.putpalette([9, 9, 9, 10, 200, 30])
    return image


def sixteen_bit(levels):
    return Image.fromarray(np.full((8, 8), levels, dtype=np.uint16))


CONSTANTS = {
    "L": (packed(Image.new("L", (8, 8), 77)), (77, 77, 77), 0),
    "1": (packed(Image.new("1", (8, 8), 1)), WHITE, 0),
    "1 black": (packed(Image.new("1", (8, 8), 0)), (0, 0, 0), 0),
    "RGB": (packed(Image.new("RGB", (8, 8), (1, 2, 3))), (1, 2, 3), 0),
    "P": (packed(palette_image()), (10, 200, 30), 0),
    "P, index 1 transparent": (packed(palette_image(), transparency=1), WHITE, 0),
    "P, index 0 transparent": (packed(palette_image(), transparency=0), (10, 200, 30), 0),
    "P, half transparent": (packed(palette_image(), transparency=bytes([255, 128])), (132, 227, 142), 1),
    "L with a transparent level": (packed(Image.new("L", (8, 8), 7), transparency=7), WHITE, 0),
    "RGB with a transparent colour": (packed(Image.new("RGB", (8, 8), RED), transparency=RED), WHITE, 0),
    "LA": (packed(Image.new("LA", (8, 8), (0, 51))), (204, 204, 204), 1),
    "RGBA": (packed(Image.new("RGBA", (8, 8), (255, 0, 0, 102))), (255, 153, 153), 1),
    "RGBA, nothing visible": (packed(Image.new("RGBA", (8, 8), (0, 0, 0, 0))), WHITE, 0),
    "I;16 black": (packed(sixteen_bit(0)), (0, 0, 0), 0),
    "I;16 middle": (packed(sixteen_bit(100 * 257)), (100, 100, 100), 0),
    "I;16 rounds": (packed(sixteen_bit(100 * 257 + 129)), (101, 101, 101), 0),
    "I;16 white": (packed(sixteen_bit(65535)), WHITE, 0),
    "I;16B TIFF": (packed(Image.fromarray(np.full((8, 8), 30_000, dtype=">u2")), "TIFF"), (117, 117, 117), 0),
    "CMYK JPEG": (packed(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100), RED, 3),
    "CMYK TIFF": (packed(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF"), RED, 0),
    "YCbCr JPEG": (packed(Image.new("RGB", (8, 8), (40, 90, 140)), "JPEG", quality=100), (40, 90, 140), 3),
    "BMP": (packed(Image.new("RGB", (8, 8), (5, 6, 7)), "BMP"), (5, 6, 7), 0),
    "lossless WebP": (packed(Image.new("RGB", (8, 8), (5, 6, 7)), "WEBP", lossless=True), (5, 6, 7), 0),
}


@pytest.mark.parametrize("case", CONSTANTS)
def test_a_constant_image_of_every_mode(case):
    raw, colour, tolerance = CONSTANTS[case]
    pixels = decode(raw, at((4, 6)))
    assert pixels.shape == (3, 6, 4)
    assert pixels.dtype == np.uint8
    expected = np.broadcast_to(np.array(colour).reshape(3, 1, 1), pixels.shape)
    np.testing.assert_allclose(pixels, expected, atol=tolerance)


@pytest.mark.parametrize("case", CONSTANTS)
def test_one_channel_is_the_luma_of_three(case):
    raw, colour, tolerance = CONSTANTS[case]
    pixels = decode(raw, at((4, 6), channels=1))
    assert pixels.shape == (1, 6, 4)
    luma = np.dot(colour, [0.299, 0.587, 0.114])
    np.testing.assert_allclose(pixels, np.full(pixels.shape, luma), atol=tolerance + 0.51)


@pytest.mark.parametrize(
    ("image", "format"),
    [
        (Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)), "TIFF"),
        (Image.fromarray(np.arange(64, dtype=np.int32).reshape(8, 8)), "TIFF"),
    ],
)
def test_pixels_without_a_stated_range_are_refused(image, format):
    with pytest.raises(ValueError, match="no stated range; save it with 8 or 16 bits"):
        decode(packed(image, format), at())


def test_thirty_two_bit_holders_of_sixteen_bits_are_scaled():
    # What Pillow before 11 made of every 16-bit PNG; a PPM still comes that way.
    raw = b"P5 2 2 65535 " + np.array([0, 257 * 100, 65535, 257], dtype=">u2").tobytes()
    assert decode(raw, at((2, 2), channels=1)).ravel().tolist() == [0, 100, 255, 1]


@pytest.mark.parametrize("hidden", [(0, 0, 0), (0, 255, 0)])
def test_no_fringe_where_transparent_meets_red(hidden):
    image = Image.new("RGBA", (64, 64), (*hidden, 0))
    image.paste((255, 0, 0, 255), (0, 0, 29, 64))
    red, green, blue = decode(packed(image), at((8, 8)))
    assert red.min() == 255  # between red and white, red never falls
    np.testing.assert_array_equal(green, blue)
    assert 50 < green[0, 3] < 150


def test_the_background_shows_through_and_around():
    image = Image.new("RGBA", (10, 5), (9, 9, 9, 0))
    pixels = decode(packed(image), at((8, 8), fit="pad", background=(0, 50, 100)))
    np.testing.assert_array_equal(pixels, np.broadcast_to(np.reshape([0, 50, 100], (3, 1, 1)), (3, 8, 8)))


def ramp(width=24, height=16):
    """Four corners of different colours, so that each of the eight orientations is a different picture."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[: height // 2, : width // 2] = (250, 20, 20)
    pixels[: height // 2, width // 2 :] = (20, 250, 20)
    pixels[height // 2 :, : width // 2] = (20, 20, 250)
    return Image.fromarray(pixels)


STORED_AS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("format", ["PNG", "TIFF", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", STORED_AS)
@pytest.mark.parametrize(("scale", "fit"), [(1, "crop"), (1, "pad"), (40, "crop"), (40.05, "crop")])
def test_every_exif_orientation_gives_the_same_picture(orientation, format, scale, fit):
    turn = STORED_AS[orientation]
    image = ramp(int(24 * scale), int(16 * scale))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    saving = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True, "method": 0}}.get(
        format, {}
    )
    raw = packed(image if turn is None else image.transpose(turn), format, exif=exif, **saving)
    options = at((23, 20), fit=fit)
    expected = decode(packed(image), options).astype(int)
    difference = np.abs(decode(raw, options) - expected)
    assert difference.mean() < 1.5
    if format != "JPEG":
        assert difference.max() == 0


@pytest.mark.parametrize("orientation", STORED_AS)
def test_a_drafted_jpeg_is_turned_without_a_shift(orientation, monkeypatch):
    turn = STORED_AS[orientation]
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((1201, 897))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    raw = packed(image if turn is None else image.transpose(turn), "JPEG", quality=95, exif=exif)
    drafted = decode(raw, at((40, 30)))
    monkeypatch.setattr("nelbo.data.decode._draft", lambda *args, **kwargs: None)
    difference = np.abs(drafted.astype(int) - decode(raw, at((40, 30))))
    assert 0 < difference.mean() < 1.5


def test_a_turned_jpeg_is_not_drafted_below_the_target(monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (40, 320, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    image = Image.fromarray(noise).resize((1280, 160)).transpose(Image.Transpose.ROTATE_90)
    raw = packed(image, "JPEG", exif=exif)
    pixels = decode(raw, at((320, 40), fit="pad"))
    monkeypatch.setattr("nelbo.data.decode._draft", lambda *args, **kwargs: None)
    np.testing.assert_array_equal(pixels, decode(raw, at((320, 40), fit="pad")))


def test_unreadable_exif_does_not_lose_the_picture(monkeypatch):
    def fail(image):
        raise SyntaxError("not a TIFF header")

    monkeypatch.setattr(Image.Image, "getexif", fail)
    assert decode(packed(ramp()), at((24, 16))).shape == (3, 16, 24)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_lose_the_picture():
    raw = packed(ramp(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff", quality=95)
    assert decode(raw, at((24, 16))).shape == (3, 16, 24)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_an_animation_gives_its_first_frame(format):
    first, *others = (Image.new("RGB", (8, 8), colour) for colour in (RED, (0, 255, 0), (0, 0, 255)))
    options = {"lossless": True} if format == "WEBP" else {}
    pixels = decode(packed(first, format, save_all=True, append_images=others, **options), at())
    np.testing.assert_array_equal(pixels[:, 4, 4], RED)


def thirds(width, height):
    """Red, green, blue from left to right."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    for channel in range(3):
        pixels[:, channel * width // 3 : (channel + 1) * width // 3, channel] = 255
    return packed(Image.fromarray(pixels))


def test_crop_keeps_the_centre():
    pixels = decode(thirds(96, 32), at((16, 16)))
    assert (pixels[1, :, 2:-2] > 240).all()
    assert pixels[0].mean() == pytest.approx(pixels[2].mean(), abs=1)


def test_pad_keeps_everything():
    pixels = decode(thirds(96, 32), at((48, 48), fit="pad", background=(1, 2, 3)))
    np.testing.assert_array_equal(pixels[:, 0, 0], [1, 2, 3])
    np.testing.assert_array_equal(pixels[:, 15, 24], [1, 2, 3])
    np.testing.assert_array_equal(pixels[:, -16, 24], [1, 2, 3])
    for channel, column in enumerate((5, 24, 43)):
        np.testing.assert_array_equal(pixels[:, 24, column], np.eye(3)[channel] * 255)


def test_targets_need_not_be_square():
    pixels = decode(thirds(96, 32), at((48, 16)))
    assert pixels.shape == (3, 16, 48)
    for channel, column in enumerate((5, 24, 43)):
        np.testing.assert_array_equal(pixels[:, 8, column], np.eye(3)[channel] * 255)


@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize("size", [(1, 1), (10, 3000), (3000, 10), (2, 2), (65, 64)])
def test_any_size_goes(size, fit):
    pixels = decode(packed(Image.new("RGB", size, RED)), at((16, 12), fit=fit, background=(255, 0, 0)))
    np.testing.assert_array_equal(pixels, np.broadcast_to(np.reshape(RED, (3, 1, 1)), (3, 12, 16)))


def test_the_right_size_is_left_alone():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    raw = packed(Image.fromarray(pixels))
    for options in (IntakeOptions(), IntakeOptions(fit="pad")):
        np.testing.assert_array_equal(decode(raw, options), pixels.transpose(2, 0, 1))
        np.testing.assert_array_equal(decode_array(pixels, options), pixels.transpose(2, 0, 1))


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_reduction_is_antialiased(format):
    fine = np.zeros((512, 512), dtype=np.uint8)
    fine[:, ::2] = 255  # one-pixel stripes: any aliasing leaves the gray
    pixels = decode(packed(Image.fromarray(fine), format), at((16, 16)))
    np.testing.assert_allclose(pixels, np.full((3, 16, 16), 127.5), atol=4)


def test_jpeg_drafts_agree_with_full_decoding(monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    raw = packed(Image.fromarray(noise).resize((1200, 900)), "JPEG", quality=95)
    drafted = decode(raw, at((40, 30)))
    monkeypatch.setattr("nelbo.data.decode._draft", lambda *args, **kwargs: None)
    difference = np.abs(drafted.astype(int) - decode(raw, at((40, 30))))
    assert 0 < difference.mean() < 1.5  # 904 rows drafted for 900: unless the region is right, 3.8


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"image_size": (0, 64)}, "image_size must be"),
        ({"channels": 2}, "channels must be 3"),
        ({"background": (0, 0, 256)}, "each 0..255"),
    ],
)
def test_options_are_checked(given, message):
    with pytest.raises(DataError, match=message):
        IntakeOptions(**given)


def test_the_fit_is_checked():
    options = SimpleNamespace(image_size=(8, 8), channels=3, fit="stretch", background=WHITE)
    with pytest.raises(DataError, match="'crop' or 'pad', got 'stretch'"):
        IntakeOptions.__post_init__(options)
