import hashlib
import shutil
import warnings

import numpy as np
import pytest
from PIL import Image

from nelbo.cli import main


def sample(run, out, *more):
    return main(["sample", str(run), "--out", str(out), "--device", "cpu", *map(str, more)])


def pixels(path):
    return np.asarray(Image.open(path)).astype(int)


def test_pictures_and_a_grid(run, tmp_path, capsys):
    assert sample(run, "out", "--num", 5, "--steps", 4) == 0
    out = tmp_path / "out"
    assert sorted(p.name for p in out.iterdir()) == [*(f"0000{i}.png" for i in range(5)), "grid.png"]
    assert pixels(out / "00000.png").shape == (16, 16, 3)
    sheet = pixels(out / "grid.png")
    assert sheet.shape == (2 * 130 + 2, 3 * 130 + 2, 3)  # 2 rows of 3, eightfold, 2 between
    np.testing.assert_array_equal(sheet[132:260:8, 132:260:8], pixels(out / "00004.png"))
    assert (sheet[132:260, 262:390] == 255).all()  # the sixth place is empty
    assert "5 images in out" in capsys.readouterr().out


def test_by_default_they_go_into_the_run(run):
    """And take all 30 steps of a run that has fewer than 50."""
    assert main(["sample", str(run), "--num", "1", "--seed", "7", "--device", "cpu"]) == 0
    assert (run / "samples" / "seed-7" / "00000.png").is_file()
    checkpoint = run / "checkpoints" / "step-00000012"
    assert main(["sample", str(checkpoint), "--num", "1", "--seed", "8", "--device", "cpu"]) == 0
    (of_run,) = (run / "samples" / "seed-8").glob("0*.png")
    assert of_run.name == "00000.png"


@pytest.mark.parametrize("sampler", ["ddim", "ancestral"])
def test_a_picture_belongs_to_its_seed_and_index(run, tmp_path, sampler):
    """In another batch it is the same picture, but for the rounding of other convolution kernels.

    The noise is the same to the bit; oneDNN takes other kernels for other batch sizes, and x_0 came out up to
    1e-6 different here, which may tip a level that lies on an edge.
    """
    common = ("--steps", 5, "--sampler", sampler)
    for name, arguments in {
        "all": ("--num", 5, "--batch-size", 5),
        "again": ("--num", 5, "--batch-size", 5),
        "two": ("--num", 5, "--batch-size", 2),
        "later": ("--num", 2, "--first", 3),
        "seed": ("--num", 5, "--seed", 1),
    }.items():
        assert sample(run, name, *arguments, *common) == 0

    def digest(name):
        return [hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted((tmp_path / name).glob("0*.png"))]

    assert digest("again") == digest("all")
    assert len(set(digest("all"))) == 5
    assert not set(digest("seed")) & set(digest("all"))
    assert sorted(p.name for p in (tmp_path / "later").glob("0*.png")) == ["00003.png", "00004.png"]
    for name in ("two", "later"):
        for path in (tmp_path / name).glob("0*.png"):
            difference = np.abs(pixels(path) - pixels(tmp_path / "all" / path.name))
            assert difference.max() <= 1
            assert (difference > 0).mean() < 1e-2


@pytest.mark.parametrize("kind", ["webp", "gif"])
def test_the_reverse_process_as_an_animation(run, tmp_path, kind):
    assert (
        sample(run, "out", "--num", 2, "--steps", 4, "--animate", "--animation", kind, "--batch-size", 1) == 0
    )
    with Image.open(tmp_path / "out" / f"reverse.{kind}") as film:
        assert film.size == (2 * 132, 132)  # one picture, x_t beside its x_0, of the first batch
        # x_T, three between and x_0, some time each; Pillow makes one frame of equal ones.
        assert 3 <= film.n_frames <= 5
        lasting = []
        for number in range(film.n_frames):
            film.seek(number)
            film.load()
            lasting.append(film.info["duration"])
        assert sum(lasting) == 4 * 80 + 2000
        last = np.asarray(film.convert("RGB")).astype(int)
    # The last frame is the image, on both sides (as far as the format keeps colours).
    assert np.abs(last[:, :132] - last[:, 132:]).mean() < 8
    centres = last[6:130:8, 6:130:8]
    assert np.abs(centres - pixels(tmp_path / "out" / "00000.png")).mean() < 30


def test_every_so_manieth_state_as_a_film_strip(run, tmp_path, capsys):
    assert sample(run, "out", "--num", 3, "--steps", 7, "--every", 3, "--batch-size", 2) == 0
    with Image.open(tmp_path / "out" / "strip.png") as strip:
        assert strip.size == (4 * 130 + 2, 2 * 146 + 2)  # states 0, 3, 6 and the last, of the first batch
        last = np.asarray(strip)[2:130:8, 3 * 130 + 2 : 4 * 130 : 8].astype(int)
    np.testing.assert_array_equal(last, pixels(tmp_path / "out" / "00000.png"))
    assert "film strip: " in capsys.readouterr().out
    assert sample(run, "out", "--every", 0) == 2
    assert "--every is 0; give at least 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        ("--sampler", "dpm++", "--path", "log-snr"),
        ("--sampler", "sde-dpm++"),
        ("--eta", "0.5"),
        ("--threshold", "0.9"),
    ],
)
def test_every_way_to_draw_makes_other_pictures(run, options):
    assert sample(run, "plain", "--num", 1, "--steps", 6) == 0
    assert sample(run, "other", "--num", 1, "--steps", 6, *options) == 0
    plain, other = (pixels(f"{name}/00000.png") for name in ("plain", "other"))
    assert (plain != other).any()


def test_a_long_film_is_thinned_but_ends_with_the_image():
    from nelbo.cli.sample import _is_frame

    for steps in (1, 59, 60, 61, 1000):
        frames = [number for number in range(steps + 1) if _is_frame(number, steps)]
        assert frames[0] == 0
        assert frames[-1] == steps
        assert len(frames) <= 62
    assert [n for n in range(51) if _is_frame(n, 50)] == list(range(51))


@pytest.mark.parametrize(
    "command", [["sample", "--num", "1", "--steps", "1"], ["evaluate", "--evaluations", "2"]]
)
def test_a_damaged_checkpoint_is_passed_over_aloud_and_once(run, capsys, command):
    newer = run / "checkpoints" / "step-00000013"
    shutil.copytree(run / "checkpoints" / "step-00000012", newer)
    (newer / "ema.safetensors").write_bytes(b"")
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main([command[0], str(run), *command[1:]]) == 0
    shown = capsys.readouterr().err
    assert shown.startswith("nelbo: warning: using step-00000012, as a newer checkpoint is damaged: ")
    assert shown.count("\n") == 1


def test_the_optimal_path_and_the_analytic_variance_come_from_an_evaluation(run, tmp_path):
    assert main(["evaluate", str(run), "--samples", "0", "--device", "cpu"]) == 0
    common = ("--num", 2, "--steps", 6, "--sampler", "ancestral")
    for name, options in {
        "even": (), "optimal": ("--path", "optimal"), "analytic": ("--variance", "analytic"),
        "small": ("--variance", "fixed-small"),
    }.items():  # fmt: skip
        assert sample(run, name, *common, *options) == 0
    drawn = [pixels(tmp_path / name / "00000.png") for name in ("even", "optimal", "analytic", "small")]
    for index, one in enumerate(drawn):
        assert all((one != other).any() for other in drawn[:index])
