"""A progress bar for work that is counted in network evaluations."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from nelbo.terminal import say

_SECONDS_BETWEEN_LINES = 15.0


@contextmanager
def evaluations_bar(console: Console, what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A function to call with the number of evaluations just done; without a terminal, a line now and then.

    ``total`` is None where nobody knows beforehand how many there will be.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[so_far]}"),
        TimeRemainingColumn(),
    )
    begun = shown = time.monotonic()
    done = 0
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=total, so_far="")

        def advance(count: int) -> None:
            nonlocal done, shown
            done, now = done + count, time.monotonic()
            rate = done / max(now - begun, 1e-9)
            of = "" if total is None else f"/{total:,}"
            so_far = f"{done:,}{of} network evaluations, {rate:.0f}/s"
            bar.update(task, completed=done, so_far=so_far)
            if not console.is_terminal and now - shown > _SECONDS_BETWEEN_LINES:
                shown = now
                left = "" if total is None else f", {(total - done) / rate:.0f} s left"
                say(console, f"{what}: {so_far}{left}")

        yield advance
