"""What ``nelbo evaluate`` says in the terminal: nothing that is not in evaluation.json."""

from typing import Any

from rich.console import Console
from rich.table import Table

from nelbo.report.plots import in_words
from nelbo.terminal import say

_ROWS = (
    ("L_T, the prior", "prior"),
    ("Σ L_t−1, the steps", "transitions"),
    ("L_0, the pixels", "reconstruction"),
)


def show(console: Console, written: dict[str, Any]) -> None:
    """Print an audit."""
    if written["model"]["summary"]:
        say(console, written["model"]["summary"])
    analytic = written["analytic"]
    columns = {written["split"]: written, **written["others"]}
    if analytic is not None:
        columns[f"{written['split']}, analytic σ²"] = analytic
    console.print(_table(columns, written))
    for name, part in columns.items():
        say(console, f"{name}: {_precision(part)}")
    say(console, "")
    if written["gap"] is not None:
        gap = written["gap"]
        sign = "+" if gap["bits_per_dim"] > 0 else ""
        figure = in_words(gap["bits_per_dim"], gap["standard_error"])
        say(console, f"held-out less train: {sign}{figure} bits/dim. {gap['sentence']}")
    if written["memorisation"] is not None:
        say(console, f"samples beside training images: {written['memorisation']['sentence']}")
    say(console, f"floor: {written['floor']['sentence']}")
    if analytic is not None:
        saves = analytic["saves"]
        figure = in_words(saves["bits_per_dim"], saves["standard_error"])
        say(
            console,
            f"analytic variances, measured on training images, save {figure} bits/dim on the same draws",
        )


def _table(columns: dict[str, Any], written: dict[str, Any]) -> Table:
    title = "negative ELBO, an upper bound on −log₂ p(image) per dimension"
    if written["reference"]:
        title = (
            "reference mode: Ho et al.'s decoder, for comparison with published numbers; no true likelihood"
        )
    if written["model"]["timesteps"] is not None:
        title += f"\n{len(written['model']['timesteps'])} steps"
    table = Table("bits/dim", *columns, title=title)
    for label, field in _ROWS:
        table.add_row(label, *(f"{part[field]:.4f}" for part in columns.values()))
    table.add_section()
    totals = (in_words(part["bits_per_dim"], part["standard_error"]) for part in columns.values())
    table.add_row("[bold]total ± standard error", *(f"[bold]{total}" for total in totals))
    blanks = [""] * (len(columns) - 1)
    for kind, bits in written["codecs"].items():
        table.add_row(f"{kind}, lossless, the same images", f"{bits:.3f}", *blanks)
    return table


def _precision(part: dict[str, Any]) -> str:
    """Both 95 % intervals in words."""
    value, these, population = part["bits_per_dim"], part["half_width"], part["population_half_width"]
    spent = f"{part['network_evaluations']:,} network evaluations"
    return (
        f"{value:.4f} ± {_or_unknown(these)} for these {part['num_images']:,} images,"
        f" ± {_or_unknown(population)} for what they stand for (95 %); {spent}"
    )


def _or_unknown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"
