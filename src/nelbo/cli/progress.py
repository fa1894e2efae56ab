"""A progress bar for work that is counted in network evaluations."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from nelbo.terminal import say

_SECONDS_BETWEEN_LINES = 15.0


@contextmanager
def evaluations_bar(console: Console, what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A function to call with the number of evaluations just done; without a terminal, a line now and then."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} network evaluations, {task.fields[rate]:.0f}/s"),
        TimeRemainingColumn(),
    )
    begun = shown = time.monotonic()
    done = 0
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=total, rate=0.0)

        def advance(count: int) -> None:
            nonlocal done, shown
            done, now = done + count, time.monotonic()
            rate = done / max(now - begun, 1e-9)
            bar.update(task, completed=done, rate=rate)
            if not console.is_terminal and now - shown > _SECONDS_BETWEEN_LINES:
                shown = now
                left = (total - done) / rate
                say(
                    console,
                    f"{what}: {done:,}/{total:,} network evaluations, {rate:.0f}/s, {left:.0f} s left",
                )

        yield advance
