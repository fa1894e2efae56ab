"""Plots. matplotlib comes with the extra ``plots``."""

import math
from pathlib import Path
from typing import Any

from nelbo.files import written_whole


class MissingExtraError(RuntimeError):
    """A part of nelbo that needs a package which is not installed; the message says how to get it."""


def in_words(value: float, standard_error: float | None) -> str:
    """A figure and its error; one image has none."""
    is_unknown = standard_error is None or math.isnan(standard_error)
    return f"{value:.3f} ± {'unknown' if is_unknown else f'{standard_error:.3f}'}"


def plot_bound(audit: dict[str, Any], path: Path) -> Path:
    """Where the bits go: the bound per step over t, both axes logarithmic, with a band of two standard errors.

    Args:
        audit: what evaluation.json holds.
        path: where to write the PNG.

    Raises:
        MissingExtraError: without matplotlib.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("the plot needs matplotlib: pip install 'nelbo[plots]'") from error

    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = FigureCanvasAgg(figure).figure.add_subplot()
    curves = {audit["split"]: audit, **audit["others"]}
    if audit["analytic"] is not None:
        curves[f"{audit['split']}, analytic σ²"] = audit["analytic"]
    for index, (name, part) in enumerate(curves.items()):
        edges, means, errors = [], [], []
        for step in part["steps"]:
            edges += [step["first"] - 0.5, step["last"] + 0.5]
            means += [step["bits_per_dim"]] * 2
            errors += [2 * (step["standard_error"] or 0.0)] * 2
        label = f"{name}: {in_words(part['bits_per_dim'], part['standard_error'])} bits/dim"
        (line,) = axes.plot(edges, means, label=label, linewidth=1.6, linestyle=("-", "--", "-.")[index])
        low = [max(m - e, m * 1e-2) for m, e in zip(means, errors)]
        high = [m + e for m, e in zip(means, errors)]
        axes.fill_between(edges, low, high, color=line.get_color(), alpha=0.25, linewidth=0)
    lowest = min(step["bits_per_dim"] for part in curves.values() for step in part["steps"])
    floor = audit["floor"]
    label = f"floor, whatever the network: {floor['bits_per_dim']:.3f} bits/dim"
    edges = [edge for t in range(1, len(floor["steps"]) + 1) for edge in (t - 0.5, t + 0.5)]
    shown = [value if value > 0 else math.nan for value in floor["steps"] for _ in range(2)]
    axes.plot(edges, shown, color="black", linestyle=":", linewidth=1.6, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(bottom=max(0.2 * lowest, 1e-12))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("step t (t = 1 is $L_0$, the last step to the image)")
    axes.set_ylabel("bits/dim per step")
    axes.set_title("Where the bits go" + (" (reference decoder)" if audit["reference"] else ""))
    axes.grid(True, which="major", alpha=0.3)
    axes.legend(frameon=False)
    with written_whole(path) as draft:
        figure.savefig(draft, dpi=150)
    return path
