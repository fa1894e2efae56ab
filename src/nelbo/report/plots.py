"""Plots. matplotlib comes with the extra ``plots``."""

import math
from pathlib import Path

from nelbo.evaluation.likelihood import Likelihood
from nelbo.files import written_whole


class MissingExtraError(RuntimeError):
    """A part of nelbo that needs a package which is not installed; the message says how to get it."""


def in_words(value: float, standard_error: float) -> str:
    """A figure and its error; one image has none."""
    return f"{value:.3f} ± " + ("unknown" if math.isnan(standard_error) else f"{standard_error:.3f}")


def plot_bound(splits: dict[str, Likelihood], path: Path) -> Path:
    """Where the bits go: the bound per step over t, both axes logarithmic, with a band of one standard error.

    Args:
        splits: estimates by name, such as "held-out" and "train".
        path: where to write the PNG.

    Raises:
        MissingExtraError: without matplotlib.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("the plot needs matplotlib: pip install 'nelbo[plots]'") from error

    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = FigureCanvasAgg(figure).figure.add_subplot()
    for index, (name, likelihood) in enumerate(splits.items()):
        edges, means, errors = [], [], []
        for s in likelihood.strata:
            edges += [s.first - 0.5, s.last + 0.5]
            means += [s.bits_per_dim] * 2
            errors += [0.0 if math.isnan(s.standard_error) else s.standard_error] * 2
        label = f"{name}: {in_words(likelihood.bits_per_dim, likelihood.standard_error)} bits/dim"
        (line,) = axes.plot(edges, means, label=label, linewidth=1.6, linestyle="--" if index else "-")
        low = [max(m - e, m * 1e-2) for m, e in zip(means, errors)]
        high = [m + e for m, e in zip(means, errors)]
        axes.fill_between(edges, low, high, color=line.get_color(), alpha=0.25, linewidth=0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("step t (t = 1 is $L_0$, the last step to the image)")
    axes.set_ylabel("bits/dim per step")
    axes.set_title("Where the bits go")
    axes.grid(True, which="major", alpha=0.3)
    axes.legend(frameon=False)
    with written_whole(path) as draft:
        figure.savefig(draft, dpi=150)
    return path
