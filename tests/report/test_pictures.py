import numpy as np
import pytest
import torch
from PIL import Image

from nelbo.evaluation.neighbours import Memorisation, Neighbours
from nelbo.report.pictures import (
    film_strip,
    grid,
    nearest_pairs,
    save_animation,
    save_picture,
    scale_for,
    side_by_side,
    to_pictures,
    written_whole,
)

GAP = 2


def coloured(num, size=(6, 4), mode="RGB"):
    """Pictures of (width, height), each of one colour, all different, none white."""
    return [Image.new(mode, size, i + 1 if mode == "L" else (i + 1, 10 * i, 200)) for i in range(num)]


def test_to_pictures_gives_the_exact_levels():
    levels = torch.arange(256).reshape(1, 1, 16, 16).repeat(2, 3, 1, 1)
    levels[1] = levels[1].flip(-1)
    for channels in (1, 3):
        made = to_pictures(levels[:, :channels].double() / 127.5 - 1)
        assert [p.mode for p in made] == ["L" if channels == 1 else "RGB"] * 2
        for picture, expected in zip(made, levels):
            pixels = np.asarray(picture) if channels == 3 else np.asarray(picture)[..., None]
            np.testing.assert_array_equal(pixels, expected[:channels].permute(1, 2, 0))


def test_to_pictures_keeps_rows_rows_and_clamps():
    x = torch.full((1, 3, 2, 5), -1.0)
    x[0, 0, 1, 4] = 7.0  # red, bottom right
    (picture,) = to_pictures(x.requires_grad_())
    assert picture.size == (5, 2)
    assert picture.getpixel((4, 1)) == (255, 0, 0)
    assert picture.getpixel((4, 0)) == (0, 0, 0)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(("num", "columns", "cells"), [(1, None, (1, 1)), (5, None, (3, 2)), (9, None, (3, 3)),
                                                       (7, 4, (4, 2)), (3, 5, (5, 1))])  # fmt: skip
def test_every_pixel_of_a_grid_is_where_it_belongs(mode, num, columns, cells):
    pictures, scale = coloured(num, mode=mode), 3
    sheet = grid(pictures, columns=columns, scale=scale)
    width, height = 6 * scale, 4 * scale
    assert sheet.mode == mode
    assert sheet.size == (cells[0] * (width + GAP) + GAP, cells[1] * (height + GAP) + GAP)
    expected = np.full((sheet.height, sheet.width, *((3,) if mode == "RGB" else ())), 255, dtype=np.uint8)
    for i, picture in enumerate(pictures):
        left, top = GAP + i % cells[0] * (width + GAP), GAP + i // cells[0] * (height + GAP)
        expected[top : top + height, left : left + width] = picture.getpixel((0, 0))
    np.testing.assert_array_equal(np.asarray(sheet), expected)


def test_a_grid_enlarges_pixels_into_sharp_squares():
    checks = Image.fromarray(np.array([[0, 255], [255, 0]], dtype=np.uint8))
    sheet = np.asarray(grid([checks], scale=4))[GAP:-GAP, GAP:-GAP]
    np.testing.assert_array_equal(sheet, np.kron(np.asarray(checks), np.ones((4, 4), dtype=np.uint8)))


@pytest.mark.parametrize(("size", "scale"), [((64, 64), 2), ((16, 16), 8), ((28, 28), 5), ((256, 128), 1),
                                             ((1024, 1024), 1), ((32, 64), 2)])  # fmt: skip
def test_small_images_are_enlarged_to_about_128_pixels(size, scale):
    assert scale_for(size) == scale


def test_side_by_side():
    left, right = coloured(2)
    both = side_by_side(left, right)
    assert both.size == (12, 4)
    assert both.getpixel((5, 0)) == left.getpixel((0, 0))
    assert both.getpixel((6, 0)) == right.getpixel((0, 0))


def memorised(indices, mirrored, ratios, suspicious):
    """What was found about samples, by hand."""
    found = Neighbours(np.array(indices), np.zeros(len(indices)), np.array(mirrored))
    marks = np.array(suspicious)
    return Memorisation(found, np.array(ratios), np.zeros(0), marks, int(marks.sum()), 0.5, 0.5, "")


@pytest.mark.parametrize("channels", [1, 3])
def test_pairs_are_sorted_marked_and_shown_as_they_were_compared(channels):
    levels = np.random.default_rng(0).integers(0, 256, (7, channels, 4, 6), dtype=np.uint8)
    samples, train = levels[:3], levels[3:]
    found = memorised([2, 0, 3], [False, True, False], [0.9, 0.05, 0.5], [False, True, False])
    sheet = np.asarray(nearest_pairs(samples, train, found, scale=2))
    expected = [(samples[1], train[0, :, :, ::-1], (255, 0, 0)), (samples[2], train[3], (255, 255, 255)),
                (samples[0], train[2], (255, 255, 255))]  # fmt: skip
    height, width = 2 * (4 + 4), 2 * (12 + 4)
    assert sheet.shape == (2 * (height + GAP) + GAP, 2 * (width + GAP) + GAP, 3)
    for number, (left, right, colour) in enumerate(expected):
        top, side = GAP + number // 2 * (height + GAP), GAP + number % 2 * (width + GAP)
        pair = np.full((8, 16, 3), colour, dtype=np.uint8)
        pair[2:-2, 2:-2] = np.concatenate([left, right], axis=2).transpose(1, 2, 0)
        shown = sheet[top : top + height, side : side + width]
        np.testing.assert_array_equal(shown, pair.repeat(2, axis=0).repeat(2, axis=1))


def test_only_the_most_suspicious_pairs_are_shown():
    levels = np.arange(50, 90, dtype=np.uint8)[:, None, None, None].repeat(3, 1).repeat(4, 2).repeat(4, 3)
    found = memorised(range(40), [False] * 40, np.linspace(1, 0.5, 40), [False] * 40)
    assert nearest_pairs(levels, levels, found).size == (5 * 14 + 2, 8 * 10 + 2)  # 36, in rows of five
    pair = np.asarray(nearest_pairs(levels, levels, found, at_most=1))[4:-4, 4:-4]
    assert pair.shape == (4, 8, 3)
    assert (pair == 89).all()


@pytest.mark.parametrize("suffix", ["png", "webp", "bmp"])
def test_the_suffix_decides_the_format(tmp_path, suffix):
    path = tmp_path / "new" / f"a.{suffix}"
    assert save_picture(coloured(1)[0], path) == path
    with Image.open(path) as found:
        assert found.format == suffix.upper()
        assert found.size == (6, 4)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def fail(path):
    with written_whole(path) as draft:
        assert draft.suffix == ".png"  # Pillow and matplotlib tell the format by it
        assert draft.parent == path.parent
        draft.write_bytes(b"half")
        raise OSError(28, "No space left on device")


def test_a_failure_leaves_the_old_file_and_no_draft(tmp_path):
    path = save_picture(coloured(1)[0], tmp_path / "a.png")
    before = path.read_bytes()

    with pytest.raises(OSError, match="No space left"):
        fail(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("suffix", ["webp", "gif"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_an_animation_has_every_frame_and_holds_the_last(tmp_path, suffix, mode):
    frames = [
        Image.fromarray(noise if mode == "L" else np.stack([noise] * 3, axis=-1))
        for noise in np.random.default_rng(0).integers(0, 256, (5, 24, 32), dtype=np.uint8)
    ]
    path = save_animation(frames, tmp_path / "new" / f"film.{suffix}", milliseconds=50)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    with Image.open(path) as film:
        assert film.format == suffix.upper()
        assert film.n_frames == 5
        assert film.size == (32, 24)
        assert film.info["loop"] == 0
        durations = []
        for number in range(5):
            film.seek(number)
            film.load()
            durations.append(film.info["duration"])
            shown = np.asarray(film.convert("L")).astype(float)
            # Lossy (WebP) or with few colours (GIF), but this frame and no other.
            distances = [np.abs(shown - np.asarray(frame.convert("L"))).mean() for frame in frames]
            assert int(np.argmin(distances)) == number
        assert durations == [50] * 4 + [2000]


def test_captions_stand_under_their_pictures_and_are_cut_to_fit():
    pictures = [Image.new("L", (20, 20), level) for level in (0, 100, 200)]
    sheet = grid(pictures, columns=3, scale=2, captions=["a", "far too long for it", ""])
    assert sheet.size == (3 * 42 + 2, 42 + 16 + 2)
    pixels = np.asarray(sheet).astype(int)
    assert [int(pixels[20, 22 + 42 * i, 0]) for i in range(3)] == [0, 100, 200]
    under = pixels[42:58].min(axis=2)
    assert under[:, :42].min() < 128
    assert under[:, 42:86].min() < 128
    assert (under[:, 86:] == 255).all()
    assert (under[:, 42:44] == 255).all()  # nothing runs over into the next column
    assert (under[:, 84:] == 255).all()


def test_a_film_strip_has_a_row_for_each_image():
    stages = [(f"t = {t}", torch.full((2, 3, 8, 8), value)) for t, value in ((9, -1.0), (4, 0.0), (0, 1.0))]
    strip = np.asarray(film_strip(stages, scale=4))
    assert strip.shape == (2 * (32 + 16 + 2) + 2, 3 * 34 + 2, 3)
    for row in (10, 60):
        assert [int(strip[row, 10 + 34 * i, 0]) for i in range(3)] == [0, 128, 255]
