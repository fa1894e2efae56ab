import json
import math
import sys

import numpy as np
import pytest
from PIL import Image

import nelbo
from nelbo.cli import main
from nelbo.cli.evaluate import _verdict
from nelbo.data import IntakeOptions, open_store
from nelbo.evaluation.codecs import codec_bits_per_dim
from nelbo.evaluation.likelihood import estimate_likelihood
from nelbo.run import read_config


@pytest.fixture
def no_plots(monkeypatch):
    """As if matplotlib were not installed, which is also quicker."""
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)


def evaluate(run, *more):
    return main(["evaluate", str(run), "--device", "cpu", *map(str, more)])


def figures(run):
    def refuse(text):
        raise AssertionError(f"{text} is no JSON")

    return json.loads((run / "evaluation.json").read_text(), parse_constant=refuse)


def adds_up(part):
    total = part["prior"] + part["transitions"] + part["reconstruction"]
    assert part["bits_per_dim"] == pytest.approx(total, rel=1e-9)
    assert part["network_evaluations"] % part["num_images"] == 0
    assert part["standard_error"] > 0


def test_the_figures_and_the_plot(run, capsys):
    assert evaluate(run, "--evaluations", 6) == 0
    found = figures(run)
    assert found["unit"] == "bits/dim"
    assert found["split"] == "held-out"
    adds_up(found)
    train = found["others"]["train"]
    adds_up(train)
    assert found["num_images"] == train["num_images"]  # as many of each, so that their errors compare
    assert 2 <= found["num_images"] <= 6
    assert found["network_evaluations"] == 6 * found["num_images"]
    assert found["gap"]["bits_per_dim"] == pytest.approx(found["bits_per_dim"] - train["bits_per_dim"])
    error = math.hypot(found["standard_error"], train["standard_error"])
    assert found["gap"]["standard_error"] == pytest.approx(error)
    assert found["checkpoint"] == "step-00000012"
    assert found["seed"] == 0
    assert found["codecs"].keys() == {"PNG", "WebP"}
    assert [s["first"] for s in found["strata"]][:2] == [1, 2]
    with Image.open(run / "evaluation.png") as plot:
        assert plot.format == "PNG"
    shown = capsys.readouterr().out
    assert f"{found['bits_per_dim']:.3f} ± {found['standard_error']:.3f}" in shown
    assert f"{found['codecs']['PNG']:.3f}" in shown
    assert str(run / "evaluation.json") in shown
    assert "held-out less train" in shown


@pytest.mark.usefixtures("no_plots")
def test_held_out_is_what_was_held_out_and_train_what_was_not(run, photos):
    assert evaluate(run, "--evaluations", 2) == 0
    found, config = figures(run), read_config(run)
    store = open_store(str(photos), IntakeOptions((16, 16)), progress=False)
    split = store.split(config.held_out_threshold)
    assert len(split.held_out) == found["num_images"]
    kept = split.train[np.linspace(0, len(split.train) - 1, len(split.held_out)).round().astype(int)]
    for part, indices in ((found, split.held_out), (found["others"]["train"], kept)):
        own = estimate_likelihood(nelbo.load(run), store.images[indices], evaluations_per_image=2)
        assert part["bits_per_dim"] == pytest.approx(own.bits_per_dim, rel=1e-6)
    assert abs(found["gap"]["bits_per_dim"]) > 1e-3


@pytest.mark.usefixtures("no_plots")
def test_it_is_the_same_again_and_in_any_batch_and_another_for_another_seed(run):
    made = []
    for more in ([], ["--batch-size", 1], ["--seed", 1]):
        assert evaluate(run, "--evaluations", 3, *more) == 0
        made.append(figures(run))
    assert made[1]["bits_per_dim"] == pytest.approx(made[0]["bits_per_dim"], rel=1e-5)
    assert abs(made[2]["bits_per_dim"] - made[0]["bits_per_dim"]) > 1e-3


@pytest.mark.usefixtures("no_plots")
def test_other_data(run, other_photos):
    assert evaluate(run, "--evaluations", 3, "--data", other_photos) == 0
    found = figures(run)
    assert (found["split"], found["data"]) == ("data", str(other_photos))
    assert (found["num_images"], found["network_evaluations"]) == (5, 15)
    assert found["others"] == {}
    assert found["gap"] is None
    images = open_store(str(other_photos), IntakeOptions((16, 16)), progress=False).images
    assert found["codecs"] == {kind: codec_bits_per_dim(images, kind) for kind in ("PNG", "WebP")}


@pytest.mark.usefixtures("no_plots")
def test_max_images_spreads_over_the_set(run, other_photos):
    assert evaluate(run, "--evaluations", 2, "--data", other_photos, "--max-images", 3) == 0
    assert figures(run)["num_images"] == 3


@pytest.mark.usefixtures("no_plots")
def test_every_step(run, other_photos):
    assert evaluate(run, "--evaluations", 1000, "--data", other_photos, "--max-images", 2) == 0
    found = figures(run)
    assert found["network_evaluations"] == 2 * 30
    assert [(s["first"], s["last"]) for s in found["strata"]] == [(t, t) for t in range(1, 31)]


@pytest.mark.usefixtures("no_plots")
def test_one_image_has_no_error_bar_and_the_file_is_json(run, capsys):
    assert evaluate(run, "--evaluations", 2, "--max-images", 1) == 0
    found = figures(run)
    assert found["standard_error"] is None
    assert found["gap"]["standard_error"] is None
    shown = capsys.readouterr().out
    assert "± unknown" in shown
    assert "nan" not in shown
    assert "nobody can say" in " ".join(shown.split())


@pytest.mark.usefixtures("no_plots")
def test_without_matplotlib_there_are_figures_and_no_plot(run, capsys):
    assert evaluate(run, "--evaluations", 2) == 0
    adds_up(figures(run))
    assert not (run / "evaluation.png").exists()
    assert "no plot: the plot needs matplotlib: pip install 'nelbo[plots]'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("gap", "error", "verdict"),
    [
        (0.5, 0.1, "it is memorising"),
        (0.1, 0.1, "No sign"),
        (-0.5, 0.1, "No sign"),
        (0.5, math.nan, "nobody"),
    ],
)
def test_the_verdict(gap, error, verdict):
    assert verdict in _verdict(gap, error)
