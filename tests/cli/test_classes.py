"""Runs with classes: learned from sub-folders, drawn by name."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from nelbo.cli import main
from nelbo.cli.classes import labels_for
from nelbo.run import load, read_config

CPU = torch.device("cpu")
NAMES = ("cats", "dogs", "eels")
WILD = (
    *("--warmup-images", "0", "--learning-rate", "0.02", "--no-decay", "--ema-half-life", "1"),
    *("--coarse-pool", "1"),
)


@pytest.fixture
def animals(photos, tmp_path):
    """Three sub-folders of four pictures, and one picture outside."""
    folder = tmp_path / "animals"
    for number, path in enumerate(sorted(photos.iterdir())):
        (folder / NAMES[number % 3]).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / NAMES[number % 3])
    Image.new("RGB", (16, 16), "red").save(folder / "stray.png")
    return folder


@pytest.fixture
def labelled(animals, train, tmp_path):
    """Its learning rate is wild, so that a few steps make the classes differ visibly."""
    assert train(tmp_path / "labelled", "--classes", "--max-steps", 12, *WILD, data=animals) == 0
    return tmp_path / "labelled"


def pictures(out):
    return [np.asarray(Image.open(path)) for path in sorted(out.glob("0*.png"))]


def test_a_run_learns_the_sub_folders(labelled):
    assert read_config(labelled).class_names == NAMES
    assert load(labelled).network.num_classes == 3


def test_samples_go_through_the_classes_or_through_those_named(labelled, tmp_path):
    for name, options in {
        "all": ("--num", "4"),
        "dogs": ("--num", "4", "--class", "dogs"),
        "two": ("--num", "4", "--class", "eels", "dogs"),
        "guided": ("--num", "4", "--guidance", "3"),
    }.items():
        arguments = ("--steps", "3", "--batch-size", "1", "--out", str(tmp_path / name), *options)
        assert main(["sample", str(labelled), *arguments]) == 0
    every, dogs, two, guided = (pictures(tmp_path / name) for name in ("all", "dogs", "two", "guided"))

    def same(one, other):
        return [bool((a == b).all()) for a, b in zip(one, other)]

    assert same(every, dogs) == [False, True, False, False]  # cats dogs eels cats
    assert same(two, dogs) == [False, True, False, True]  # eels dogs eels dogs
    assert not any(same(every, guided))
    sheet = Image.open(tmp_path / "all" / "grid.png")
    assert sheet.size == (3 * 130 + 2, 2 * 146 + 2)  # a column for each class, its name under each picture


def test_a_labelled_run_is_evaluated_and_resumed_like_any_other(labelled, train, animals):
    assert main(["evaluate", str(labelled), "--evaluations", "4", "--samples", "3", "--device", "cpu"]) == 0
    (animals / "ants").mkdir()
    Image.new("RGB", (16, 16), "blue").save(animals / "ants" / "new.png")
    assert train(labelled, "--classes", "--max-steps", 13, *WILD, data=animals) == 0
    assert (
        read_config(labelled).class_names == NAMES
    )  # a class that came later is not learned, and shifts none


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--class", "cows"), "no class 'cows': it knows cats, dogs, eels"),
        (("--guidance", "nan"), "--guidance is nan"),
    ],
)
def test_what_a_labelled_run_refuses(labelled, capsys, options, message):
    assert main(["sample", str(labelled), "--num", "1", *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("options", [("--class", "cats"), ("--guidance", "2")])
def test_a_run_without_classes_has_none_to_draw(run, capsys, options):
    assert main(["sample", str(run), "--num", "1", *options]) == 2
    assert "was trained without --classes" in capsys.readouterr().err
    assert not (run / "samples").exists()


def test_data_without_classes_has_none_to_learn(train, tmp_path, capsys):
    assert train(tmp_path / "new", "--classes", "--max-steps", 1) == 2
    assert "--classes needs classes, and" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_table_gives_the_classes(photos, train, tmp_path, capsys):
    rows = [f"{path.name},{NAMES[n % 2]}" for n, path in enumerate(sorted(photos.iterdir()))]
    (tmp_path / "labels.csv").write_text("\n".join(["file_name,label", *rows]))
    assert train(tmp_path / "new", "--labels", tmp_path / "labels.csv", "--max-steps", 1) == 0
    assert read_config(tmp_path / "new").class_names == NAMES[:2]
    assert "2 classes (cats, dogs)" in capsys.readouterr().out
    assert train(tmp_path / "other", "--labels", tmp_path / "nowhere.csv", "--max-steps", 1) == 2
    assert "nowhere.csv cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_the_class_of_an_image_depends_on_its_index_alone():
    whole = labels_for(NAMES, 0, 10, CPU)
    assert whole.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
    parts = [labels_for(NAMES, first, size, CPU) for first, size in ((0, 4), (4, 1), (5, 5))]
    assert torch.equal(torch.cat(parts), whole)
    assert labels_for((), 0, 3, CPU) is None
