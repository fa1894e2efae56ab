import math
import sys

import numpy as np
import pytest
from PIL import Image

from nelbo.evaluation.plan import geometric
from nelbo.report.plots import MissingExtraError, in_words, plot_bound


def part(scale=1.0, error=0.05):
    steps = [
        {
            "first": a,
            "last": b,
            "bits_per_dim": scale / (a + b),
            "standard_error": None if error is None else error * scale / (a + b),
        }
        for a, b in geometric(1000, 24).slots
    ]
    return {"bits_per_dim": 3.217 * scale, "standard_error": error, "steps": steps}


def audit(**more):
    return {
        "split": "held-out", "others": {}, "analytic": None, "reference": False,
        "floor": {"bits_per_dim": 1.2, "steps": [0.5 / t for t in range(1, 1000)] + [0.0]},
        **part(), **more,
    }  # fmt: skip


def test_a_plot_is_a_legible_png(tmp_path):
    found = audit(others={"train": part(1.1)}, analytic=part(0.9))
    path = plot_bound(found, tmp_path / "new" / "plot.png")
    assert [p.name for p in path.parent.iterdir()] == ["plot.png"]
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.width >= 1000
        assert picture.height >= 600
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    # Three curves in three colours, on white.
    colours, counts = np.unique(pixels, axis=0, return_counts=True)
    assert (colours[counts.argmax()] == 255).all()
    for curve in ((31, 119, 180), (255, 127, 14), (44, 160, 44)):
        assert counts[(colours == curve).all(axis=1)].sum() > 300


@pytest.fixture
def drawn(monkeypatch):
    """The axes that were drawn, in the end."""
    from matplotlib.figure import Figure

    kept = []
    add_subplot = Figure.add_subplot
    monkeypatch.setattr(
        Figure,
        "add_subplot",
        lambda self, *args, **kw: kept.append(add_subplot(self, *args, **kw)) or kept[-1],
    )
    return kept


def test_the_curve_and_the_floor_in_logarithms(tmp_path, drawn):
    given = audit()
    plot_bound(given, tmp_path / "plot.png")
    (axes,) = drawn
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    line, floor = axes.get_lines()
    assert line.get_label() == "held-out: 3.217 ± 0.050 bits/dim"
    x, y = line.get_data()
    assert x.tolist() == [edge for s in given["steps"] for edge in (s["first"] - 0.5, s["last"] + 0.5)]
    assert y.tolist() == [s["bits_per_dim"] for s in given["steps"] for _ in range(2)]
    (band,) = axes.collections
    low, high = band.get_paths()[0].vertices[:, 1].min(), band.get_paths()[0].vertices[:, 1].max()
    means = [s["bits_per_dim"] for s in given["steps"]]
    assert low == pytest.approx(min(means) * 0.9)  # two standard errors
    assert high == pytest.approx(max(means) * 1.1)
    assert floor.get_label() == "floor, whatever the network: 1.200 bits/dim"
    x, y = floor.get_data()
    assert x.tolist()[:4] == [0.5, 1.5, 1.5, 2.5]  # a step is as wide as in the curve: one alone can be seen
    assert y.tolist()[:4] == [0.5, 0.5, 0.25, 0.25]
    assert (x[1997], y[1997]) == (999.5, 0.5 / 999)
    assert math.isnan(y[1998])  # nothing to pay there, and no logarithm of it
    assert axes.get_ylim()[0] < min(means)
    assert axes.get_ylim()[0] > min(means) / 100


def test_a_single_image_can_be_plotted(tmp_path, drawn):
    plot_bound(audit(**part(error=None)), tmp_path / "plot.png")
    assert drawn[0].get_lines()[0].get_label() == "held-out: 3.217 ± unknown bits/dim"


def test_the_reference_decoder_is_named(tmp_path, drawn):
    plot_bound(audit(reference=True), tmp_path / "plot.png")
    assert "reference" in drawn[0].get_title()


def test_figures_in_words():
    assert in_words(3.21678, 0.0456) == "3.217 ± 0.046"
    assert in_words(-0.5, math.nan) == "-0.500 ± unknown"


def test_without_matplotlib_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'nelbo\[plots\]'"):
        plot_bound(audit(), tmp_path / "plot.png")
    assert list(tmp_path.iterdir()) == []
