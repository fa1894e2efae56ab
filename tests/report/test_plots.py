import math
import sys

import numpy as np
import pytest
from PIL import Image

from nelbo.evaluation.likelihood import Likelihood, Stratum, geometric_strata
from nelbo.report.plots import MissingExtraError, in_words, plot_bound


def likelihood(scale=1.0, error=0.05):
    strata = [(1, 1), *geometric_strata(1000, 24)]
    return Likelihood(
        bits_per_dim=3.217 * scale, standard_error=error, prior=0.0, transitions=2.0, reconstruction=1.2,
        num_images=9, network_evaluations=9 * len(strata),
        strata=tuple(Stratum(a, b, scale / (a + b), error * scale / (a + b)) for a, b in strata),
        per_image=(3.0,) * 9,
    )  # fmt: skip


def test_a_plot_is_a_legible_png(tmp_path):
    path = plot_bound({"held-out": likelihood(1.1), "train": likelihood()}, tmp_path / "new" / "plot.png")
    assert [p.name for p in path.parent.iterdir()] == ["plot.png"]
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.width >= 1000
        assert picture.height >= 600
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    # Two curves in two colours, on white.
    colours, counts = np.unique(pixels, axis=0, return_counts=True)
    assert (colours[counts.argmax()] == 255).all()
    for curve in ((31, 119, 180), (255, 127, 14)):
        assert counts[(colours == curve).all(axis=1)].sum() > 500


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


def test_the_curve_is_the_strata_in_logarithms(tmp_path, drawn):
    given = likelihood()
    plot_bound({"held-out": given}, tmp_path / "plot.png")
    (axes,) = drawn
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    (line,) = axes.get_lines()
    assert line.get_label() == "held-out: 3.217 ± 0.050 bits/dim"
    x, y = line.get_data()
    assert x.tolist() == [edge for s in given.strata for edge in (s.first - 0.5, s.last + 0.5)]
    assert y.tolist() == [s.bits_per_dim for s in given.strata for _ in range(2)]
    (band,) = axes.collections
    low, high = band.get_paths()[0].vertices[:, 1].min(), band.get_paths()[0].vertices[:, 1].max()
    means = [s.bits_per_dim for s in given.strata]
    assert low == pytest.approx(min(means) * 0.95)
    assert high == pytest.approx(max(means) * 1.05)


def test_a_single_image_can_be_plotted(tmp_path, drawn):
    plot_bound({"data": likelihood(error=math.nan)}, tmp_path / "plot.png")
    assert drawn[0].get_lines()[0].get_label() == "data: 3.217 ± unknown bits/dim"


def test_figures_in_words():
    assert in_words(3.21678, 0.0456) == "3.217 ± 0.046"
    assert in_words(-0.5, math.nan) == "-0.500 ± unknown"


def test_without_matplotlib_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'nelbo\[plots\]'"):
        plot_bound({"data": likelihood()}, tmp_path / "plot.png")
    assert list(tmp_path.iterdir()) == []
