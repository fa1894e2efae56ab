import json
import math
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import nelbo
from nelbo.cli import main
from nelbo.cli.audit import _gap
from nelbo.data import IntakeOptions, open_store
from nelbo.evaluation.codecs import codec_bits_per_dim
from nelbo.evaluation.likelihood import Figure, Likelihood, estimate_likelihood, pilot_plan
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
    assert part["standard_error"] > 0
    by_step = sum(s["bits_per_dim"] * (s["last"] - s["first"] + 1) for s in part["steps"])
    assert by_step + part["prior"] == pytest.approx(total, rel=1e-9)
    assert (part["steps"][0]["first"], part["steps"][-1]["last"]) == (1, 30)


def test_the_figures_and_the_plots(run, capsys):
    assert evaluate(run, "--evaluations", 6, "--samples", 5) == 0
    found = figures(run)
    assert found["unit"] == "bits/dim"
    assert found["split"] == "held-out"
    adds_up(found)
    train = found["others"]["train"]
    adds_up(train)
    adds_up(found["analytic"])
    assert found["num_images"] == train["num_images"]  # as many of each, so that their errors compare
    assert 2 <= found["num_images"] <= 6
    assert found["network_evaluations"] == train["network_evaluations"] == 6 * found["num_images"]
    assert found["gap"]["bits_per_dim"] == pytest.approx(found["bits_per_dim"] - train["bits_per_dim"])
    error = math.hypot(found["standard_error"], train["standard_error"])
    assert found["gap"]["standard_error"] == pytest.approx(error)
    assert found["checkpoint"] == "step-00000012"
    assert found["seed"] == 0
    assert found["codecs"].keys() == {"PNG", "WebP"}
    saved = found["bits_per_dim"] - found["analytic"]["bits_per_dim"]
    assert found["analytic"]["saves"]["bits_per_dim"] == pytest.approx(saved)
    assert found["floor"]["bits_per_dim"] < found["bits_per_dim"]
    assert found["memorisation"]["num_samples"] == len(found["memorisation"]["nearest_distances"]) == 5
    assert found["half_width"] > 0
    assert found["reference"] is found["exact"] is False
    for name in ("evaluation.png", "neighbours.png"):
        with Image.open(run / name) as plot:
            assert plot.format == "PNG"
    shown = capsys.readouterr().out
    said = " ".join(shown.split())
    assert f"{found['bits_per_dim']:.3f} ± {found['standard_error']:.3f}" in shown
    assert f"{found['codecs']['PNG']:.3f}" in shown
    assert str(run / "evaluation.json") in shown
    for sentence in (found["gap"]["sentence"], found["memorisation"]["sentence"], found["floor"]["sentence"]):
        assert sentence in said


@pytest.mark.usefixtures("no_plots")
def test_held_out_is_what_was_held_out_and_train_what_was_not(run, photos):
    assert evaluate(run, "--evaluations", 2) == 0
    found, config = figures(run), read_config(run)
    store = open_store(str(photos), IntakeOptions((16, 16)), progress=False)
    split = store.split(config.held_out_threshold)
    assert len(split.held_out) == found["num_images"]
    kept = split.train[np.linspace(0, len(split.train) - 1, len(split.held_out)).round().astype(int)]
    train = store.images[kept]
    plan, _ = pilot_plan(nelbo.load(run), train, 2)  # the training images', for both
    for part, images in ((found, store.images[split.held_out]), (found["others"]["train"], train)):
        own = estimate_likelihood(nelbo.load(run), images, evaluations_per_image=2, plan=plan)
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
    assert (found["num_images"], found["network_evaluations"] - found["pilot_evaluations"]) == (5, 15)
    assert found["memorisation"] is None
    assert found["others"] == {}
    assert found["gap"] is None
    images = open_store(str(other_photos), IntakeOptions((16, 16)), progress=False).images
    assert found["codecs"] == {kind: codec_bits_per_dim(images, kind) for kind in ("PNG", "WebP")}


@pytest.mark.usefixtures("no_plots")
def test_max_images_spreads_over_the_set(run, other_photos):
    assert evaluate(run, "--evaluations", 2, "--data", other_photos, "--max-images", 3) == 0
    assert figures(run)["num_images"] == 3


@pytest.mark.usefixtures("no_plots")
def test_exact_leaves_no_step_out(run, other_photos):
    assert evaluate(run, "--exact", "--data", other_photos) == 0
    found = figures(run)
    assert found["exact"] is True
    assert found["network_evaluations"] == 2 * 5 * 30  # a second time, for the error bar; pilot there is none
    assert [(s["first"], s["last"]) for s in found["steps"]] == [(t, t) for t in range(1, 31)]
    exact = found["bits_per_dim"]
    assert evaluate(run, "--data", other_photos, "--evaluations", 8) == 0
    assert abs(figures(run)["bits_per_dim"] - exact) < 5 * math.hypot(
        figures(run)["sampling_error"], found["sampling_error"]
    )


@pytest.mark.usefixtures("no_plots")
def test_precision_is_reached(run):
    assert evaluate(run, "--evaluations", 4, "--samples", 0) == 0
    rough = figures(run)
    wanted = rough["half_width"] / 3
    assert evaluate(run, "--evaluations", 4, "--samples", 0, "--precision", wanted) == 0
    found = figures(run)
    assert found["half_width"] <= wanted
    assert found["num_rounds"] > rough["num_rounds"] == 2
    assert found["precision"] == wanted
    assert abs(found["bits_per_dim"] - rough["bits_per_dim"]) < 2 * rough["half_width"]


@pytest.mark.usefixtures("no_plots")
def test_short_paths_and_other_variances(run):
    """The optimal path needs errors measured on the training images: evaluate measures them, once."""
    options = ("--samples", 0, "--evaluations", 24, "--seed", 3)
    bits = {}
    for variance in ("own", "fixed-small", "analytic"):
        for path in ("even", "optimal"):
            assert evaluate(run, "--steps", 5, "--path", path, "--variance", variance, *options) == 0
            found = figures(run)
            bits[variance, path] = found["bits_per_dim"]
            assert found["model"]["num_timesteps"] == len(found["model"]["timesteps"]) == 5
            assert found["model"]["timesteps"][-1] == 30
    assert (run / "profile.json").is_file()
    assert len(set(bits.values())) == 6
    for path in ("even", "optimal"):
        assert bits["analytic", path] < bits["own", path]
    for variance in ("own", "fixed-small", "analytic"):
        assert bits[variance, "optimal"] < bits[variance, "even"]


@pytest.mark.usefixtures("no_plots")
def test_the_reference_decoder_is_marked_everywhere(run, capsys):
    assert evaluate(run, "--samples", 0) == 0
    own = figures(run)
    capsys.readouterr()
    assert evaluate(run, "--samples", 0, "--reference") == 0
    found = figures(run)
    assert found["reference"] is True
    assert "no true likelihood" in found["model"]["decoder"]
    assert "reference mode" in capsys.readouterr().out
    assert found["reconstruction"] != own["reconstruction"]
    assert found["transitions"] == pytest.approx(own["transitions"], rel=0.2)
    assert found["analytic"] is None


def test_a_foreign_model_is_audited(tmp_path, other_photos, capsys):
    """A diffusers folder that nobody here has trained."""
    diffusers = pytest.importorskip("diffusers")
    network = diffusers.UNet2DModel(
        sample_size=16, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    folder = tmp_path / "foreign"
    diffusers.DDPMPipeline(network, diffusers.DDPMScheduler(num_train_timesteps=50)).save_pretrained(folder)
    assert evaluate(folder, "--data", other_photos, "--evaluations", 4) == 0
    found = figures(folder)
    assert found["num_images"] == 5
    assert found["bits_per_dim"] > 1
    assert found["checkpoint"] is None
    assert "UNet2DModel" in found["model"]["summary"]
    assert "UNet2DModel" in capsys.readouterr().out
    assert (folder / "evaluation.png").is_file()
    assert main(["evaluate", str(folder), "--device", "cpu"]) == 2
    assert "give --data" in capsys.readouterr().err


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
    def likelihood(value, error):
        figure, none = Figure(value, 0.0, error), torch.zeros(0)
        return Likelihood(figure, figure, figure, figure, 0.0, 0.0, 2, 2, 2, 0, (), none, "", (), none)

    assert verdict in _gap(likelihood(3 + gap, error), likelihood(3.0, 0.0))["sentence"]
