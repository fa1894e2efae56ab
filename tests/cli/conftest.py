"""A folder of tiny pictures, and a run that was trained on it for a few steps, once for all tests here."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nelbo.cli import main

TINY = (
    *("--image-size", "16", "16", "--num-timesteps", "30", "--base-width", "8", "--multipliers", "1", "2"),
    *("--blocks-per-level", "1", "--attention-levels", "1", "--groups", "4", "--patch", "1"),
    *("--batch-size", "4", "--held-out", "0.3", "--sample-minutes", "0", "--device", "cpu"),
)


def save_pictures(folder: Path, num: int, seed: int) -> Path:
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    for index in range(num):
        pixels = np.full((16, 16, 3), generator.integers(0, 256, 3), dtype=np.uint8)
        pixels[4:12, 4:12] = generator.integers(0, 256, 3)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="session")
def _made(tmp_path_factory):
    """The pictures, the cache and the run, none of which a test may change."""
    root = tmp_path_factory.mktemp("cli")
    photos = save_pictures(root / "photos", 12, seed=0)
    before = os.environ.get("NELBO_CACHE")
    os.environ["NELBO_CACHE"] = str(root / "cache")
    try:
        assert main(["train", str(photos), "--out", str(root / "run"), "--max-steps", "12", *TINY]) == 0
    finally:
        if before is None:
            del os.environ["NELBO_CACHE"]
        else:
            os.environ["NELBO_CACHE"] = before
    return root


@pytest.fixture(autouse=True)
def _here(_made, tmp_path, monkeypatch):
    """Work in an empty directory, with the cache of the session."""
    monkeypatch.setenv("NELBO_CACHE", str(_made / "cache"))
    monkeypatch.delenv("NELBO_TRACEBACK", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def tiny():
    """The options of the tiny network."""
    return TINY


@pytest.fixture
def photos(_made):
    return _made / "photos"


@pytest.fixture
def run(_made, tmp_path):
    """A copy of the trained run."""
    return Path(shutil.copytree(_made / "run", tmp_path / "run"))


@pytest.fixture
def train(photos):
    """``nelbo train`` with the tiny network, on the pictures unless told otherwise."""

    def train(out, *more, data=photos):
        return main(["train", str(data), "--out", str(out), *TINY, *map(str, more)])

    return train


@pytest.fixture
def other_photos(tmp_path):
    return save_pictures(tmp_path / "other", 5, seed=1)
