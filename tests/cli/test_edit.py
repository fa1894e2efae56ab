import numpy as np
import pytest
from PIL import Image

from nelbo.cli import main


def edit(run, *more):
    return main(["edit", str(run), *map(str, more), "--device", "cpu"])


def pixels(path):
    return np.asarray(Image.open(path)).astype(int)


@pytest.fixture
def mask(tmp_path):
    levels = np.zeros((32, 32), dtype=np.uint8)
    levels[8:24, 16:] = 255
    Image.fromarray(levels).save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


def test_what_is_not_painted_stays_to_the_pixel(run, photos, mask, capsys):
    assert edit(run, photos / "0.png", "--mask", mask, "--num", 2, "--steps", 5) == 0
    out = run / "edits" / "0-mask"
    assert sorted(p.name for p in out.iterdir()) == ["00000.png", "00001.png", "strip.png"]
    before, after, other = (pixels(p) for p in (photos / "0.png", out / "00000.png", out / "00001.png"))
    painted = np.zeros((16, 16), dtype=bool)
    painted[4:12, 8:] = True
    np.testing.assert_array_equal(after[~painted], before[~painted])
    assert (after[painted] != before[painted]).any()
    assert (after[painted] != other[painted]).any()
    assert f"2 images in {out}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "images", "files"),
    [
        (["--strength", 0.5], 2, 2),
        (["--strength", 0.5, "--num", 3], 1, 3),
        (["--noise", 20], 1, 1),
        (["--interpolate", 4], 2, 4),
        (["--forward", 6], 2, 0),
    ],
)
def test_every_way_makes_its_pictures_and_a_strip(run, photos, tmp_path, option, images, files):
    given = [photos / f"{i}.png" for i in range(images)]
    assert edit(run, *given, *option, "--steps", 4, "--out", tmp_path / "out") == 0
    made = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert made == [*(f"{i:05d}.png" for i in range(files)), "strip.png"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "give one of --mask, --strength, --noise, --interpolate, --forward; given: none"),
        (["--strength", "0.5", "--noise", "3"], "given: --strength, --noise"),
        (["--strength", "2"], "strength is 2.0"),
        (["--interpolate", "3"], "--interpolate is between two images, once; 1 are given"),
        (["--mask", "nowhere.png"], "nowhere.png cannot be read"),
        (["--forward", "1"], "--forward is 1; give at least 2 stages"),
        (["--strength", "0.5", "--steps", "31"], "--steps is 31; choose 1 to 30"),
        (["--strength", "0.5", "--guidance", "2"], "name one with --class"),
        (["--strength", "0.5", "--class", "cat"], "the model has no class 'cat'"),
        (["--strength", "0.5", "--num", "0"], "--num is 0"),
    ],
)
def test_what_cannot_be_is_one_line_and_nothing_is_written(run, photos, capsys, more, message):
    assert edit(run, photos / "0.png", *more) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown
    assert not (run / "edits").exists()


def test_a_mask_of_one_colour_or_a_file_that_is_no_image_is_refused(run, photos, tmp_path, capsys):
    Image.new("L", (16, 16), 255).save(tmp_path / "white.png")
    assert edit(run, photos / "0.png", "--mask", tmp_path / "white.png") == 2
    assert "white.png is all of one colour" in capsys.readouterr().err
    (tmp_path / "fake.png").write_text("no image")
    assert edit(run, tmp_path / "fake.png", "--strength", "0.5") == 2
    assert "fake.png cannot be read: not an image" in capsys.readouterr().err
    assert edit(run, "--strength", "0.5") == 2
