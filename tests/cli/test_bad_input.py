"""Input that cannot be used: status 2, one line that says what, where and what to do, and nothing left behind."""

import os
import shutil

import pytest

from nelbo.cli import main


@pytest.fixture
def refused(tmp_path, capsys):
    """Run a command that must be refused; its one line."""

    def refused(*arguments):
        before = sorted(tmp_path.rglob("*"))
        assert main([str(argument) for argument in arguments]) == 2
        shown = capsys.readouterr().err
        assert shown.startswith("nelbo: ")
        assert shown.endswith("\n")
        assert shown.count("\n") == 1
        assert "Traceback" not in shown
        assert sorted(tmp_path.rglob("*")) == before
        return shown

    return refused


@pytest.fixture
def refused_training(refused, photos, tiny):
    def refused_training(*more, data=photos, out="new"):
        return refused("train", data, "--out", out, "--max-steps", 2, *tiny, *more)

    return refused_training


def test_an_unknown_command(refused):
    shown = refused("trian", "photos")
    assert "'trian'" in shown
    assert "train, sample, edit, evaluate, compare, doctor" in shown


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--max-steps", 0], ["--max-steps is 0", "positive"]),
        (["--max-images", -1], ["--max-images is -1", "positive"]),
        (["--max-minutes", "nan"], ["--max-minutes is nan", "positive"]),
        (["--held-out", 0], ["--held-out is 0.0", "between 0 and 1"]),
        (["--held-out", 1], ["--held-out is 1.0", "between 0 and 1"]),
        (["--batch-size", 0], ["--batch-size is 0", "at least 1"]),
        (["--learning-rate", -1], ["--learning-rate is -1.0", "positive"]),
        (["--ema-half-life", 0], ["--ema-half-life is 0", "positive"]),
        (["--keep", 0], ["--keep is 0", "at least one"]),
        (["--checkpoint-minutes", 0], ["--checkpoint-minutes must be positive"]),
        (["--device", "abacus"], ["'abacus'", "choose cpu, cuda, cuda:N or auto"]),
        (["--image-size", 15, 16], ["height 15", "14 and 16"]),
        (["--groups", 3], ["groups=3", "base_width to a multiple of 3"]),
        (["--attention-levels", 5], ["attention level 5"]),
        (["--num-timesteps", 0], ["num_timesteps is 0", "at least one step"]),
        (["--background", 1, 2, 300], ["background", "0..255"]),
        (["--objective", "weighted"], ["learned-range", "--objective hybrid"]),
        (["--coarse-from", 1.5], ["--coarse-from is 1.5", "a share of T between 0 and 1"]),
        (["--coarse-width", 10], ["10 channels", "not divisible by groups"]),
        (["--coarse-pool", 8], ["16", "squares of 8 pixels", "divisible by 32"]),
    ],
)
def test_options_that_make_no_training(refused_training, options, says):
    shown = refused_training(*options)
    for words in says:
        assert words in shown


def test_data_that_are_not_there(refused_training, tmp_path):
    shown = refused_training(data="nowhere")
    assert "'nowhere'" in shown
    assert str(tmp_path / "nowhere") in shown
    assert "builtin:emoji" in shown


def test_a_folder_without_images(refused_training, tmp_path):
    (tmp_path / "empty").mkdir()
    shown = refused_training(data="empty")
    assert "no usable image in empty" in shown
    assert "Point it at PNG" in shown
    (tmp_path / "empty" / "a.png").write_bytes(b"no image")
    assert "a.png" in refused_training(data="empty")


def test_an_out_that_is_no_run(refused_training, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter-1.tex").write_text("x")
    shown = refused_training(out="thesis")
    assert "thesis exists and is not a run; choose an empty or a new directory" in shown
    shown = refused_training(out="thesis/chapter-1.tex")
    assert "exists and is not a run" in shown
    shown = refused_training(out="thesis/chapter-1.tex/run")
    assert "chapter-1.tex is no directory; choose another --out" in shown


def test_an_empty_out_is_taken(tmp_path, train):
    (tmp_path / "new").mkdir()
    assert train("new", "--max-steps", 1) == 0


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_an_out_without_permission(refused_training, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "no permission" in refused_training(out="locked/run")


@pytest.mark.parametrize(
    ("text", "says"),
    [("{", "cannot be read"), ("{}", "has format None"), ('{"format": 1}', "lacks the field 'source'"),
     ('{"model_type": "unet"}', "has format None")],
)  # fmt: skip
def test_a_config_json_that_is_damaged_or_anothers(refused, refused_training, tmp_path, text, says):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(text)
    for shown in (refused("sample", "run"), refused("evaluate", "run"), refused_training(out="run")):
        assert says in shown
        assert "run/config.json" in shown
    assert (tmp_path / "run" / "config.json").read_text() == text


@pytest.mark.parametrize("command", ["sample", "evaluate"])
class TestRuns:
    def test_no_such_run(self, refused, command):
        shown = refused(command, "nowhere")
        assert "nowhere is not a run: there is no such directory; `nelbo train DATA --out nowhere`" in shown

    def test_no_run(self, refused, command, photos):
        assert "it has no config.json" in refused(command, photos)

    def test_no_checkpoint(self, refused, command, run):
        shutil.rmtree(run / "checkpoints")
        shown = refused(command, run)
        assert f"{run} has no usable checkpoint: training has not written one yet; `nelbo train`" in shown

    def test_a_damaged_checkpoint(self, refused, command, run):
        (run / "checkpoints" / "step-00000012" / "ema.safetensors").write_bytes(b"")
        assert "ema.safetensors is damaged" in refused(command, run)

    def test_an_unknown_device(self, refused, command, run):
        assert "'abacus'" in refused(command, run, "--device", "abacus")

    def test_no_batch(self, refused, command, run):
        assert "--batch-size is 0; give at least 1" in refused(command, run, "--batch-size", 0)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--steps", 0], "--steps is 0; choose 1 to 30"),
        (["--steps", 31], "--steps is 31; choose 1 to 30"),
        (["--num", 0], "--num is 0; give at least 1"),
        (["--num", -5], "--num is -5; give at least 1"),
        (["--first", -1], "--first is -1; indices start at 0"),
        (["--out", "run/config.json"], "config.json is no directory; choose another --out"),
        (["--path", "optimal"], "run `nelbo evaluate"),
        (["--variance", "analytic"], "--variance analytic rests on the model's errors on training images"),
    ],
)
def test_options_that_make_no_samples(refused, run, options, says):
    assert says in refused("sample", run, *options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--evaluations", 1], "--evaluations is 1; give at least 2"),
        (["--max-images", 0], "--max-images is 0; give at least 1"),
        (["--samples", -1], "--samples is -1; give at least 0"),
        (["--precision", 0], "--precision is 0; give bits/dim to be sure to, such as 0.01"),
        (["--precision", 0.1, "--exact"], "choose one; --exact leaves no step out"),
        (["--path", "optimal"], "--path optimal chooses some of the steps: say how many with --steps"),
        (["--steps", 31], "--steps is 31; choose 1 to 30, the T of"),
        (["--reference", "--variance", "analytic"], "Choose one"),
        (["--data", "nowhere"], "there is no 'nowhere'"),
    ],
)
def test_options_that_make_no_evaluation(refused, run, options, says):
    assert says in refused("evaluate", run, *options)
    assert not (run / "evaluation.json").exists()
