"""Where the figures of a run go: the terminal, metrics.jsonl, and TensorBoard where it is installed."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from nelbo.files import written_whole
from nelbo.terminal import say
from nelbo.training.settings import Limits
from nelbo.training.state import TrainingState

_SECONDS_BETWEEN_LINES = 30.0


class TrainingLog:
    """Shows progress and keeps the figures.

    On a terminal a live bar; elsewhere a line every half minute. Each line of metrics.jsonl has step, images,
    seconds, loss, gradient_norm, learning_rate and images_per_second. The loss is an estimate of the objective,
    the mean since the line before; where t is not drawn uniformly, each image's counts by its weight 1/(T p_t).

    Args:
        run: the run's directory.
        console: where to print.
    """

    def __init__(self, run: Path, console: Console) -> None:
        self._metrics = run / "metrics.jsonl"
        self._console = console
        self._tensorboard = _tensorboard_writer(run)
        self._bar: Progress | None = None
        self._loss: float | None = None
        self._last_line = 0.0
        self._rate: float | None = None
        self._previous: tuple[int, float] | None = None
        self._limits = Limits()

    def warn(self, message: str) -> None:
        """Something the user should know of."""
        say(self._console, f"warning: {message}")

    def resumed(self, path: Path, state: TrainingState) -> None:
        """Training goes on from a checkpoint."""
        minutes = state.seconds / 60
        say(self._console, f"resuming from {path.name}: {state.images:,} images, {minutes:.1f} minutes in")

    def compiling(self) -> None:
        """The first step will take long."""
        say(
            self._console,
            "compiling the network: the first step takes a minute or more (--compile off: none)",
        )

    def saved(self, path: Path) -> None:
        """A checkpoint was written."""
        say(self._console, f"checkpoint {path}")

    def rewind(self, step: int) -> None:
        """Drop the lines that a crash left behind of steps that will be taken again."""
        if not self._metrics.exists():
            return
        lines = self._metrics.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        if len(kept) < len(lines):
            with written_whole(self._metrics) as draft:
                draft.write_text("".join(kept), encoding="utf-8")

    def metrics(self, state: TrainingState, *, learning_rate: float, gradient_norm: float) -> None:
        """Keep the figures of the last steps."""
        self._loss = state.loss_sum / state.loss_count
        values: dict[str, Any] = {
            "loss": self._loss,
            "gradient_norm": gradient_norm,
            "learning_rate": learning_rate,
            "images_per_second": self._rate,
        }
        line = {"step": state.step, "images": state.images, "seconds": round(state.seconds, 3), **values}
        with self._metrics.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
        if self._tensorboard is not None:
            for name, value in values.items():
                if value is not None:
                    self._tensorboard.add_scalar(f"train/{name}", value, state.step)

    def step(self, state: TrainingState) -> None:
        """One more step is done."""
        if self._previous is not None and state.seconds > self._previous[1]:
            now = (state.images - self._previous[0]) / (state.seconds - self._previous[1])
            self._rate = now if self._rate is None else 0.95 * self._rate + 0.05 * now
        self._previous = (state.images, state.seconds)
        if self._bar is None:
            return
        if self._console.is_terminal:
            share = state.progress(self._limits)
            total = 1.0 if share > 0 else None
            self._bar.update(self._bar.task_ids[0], completed=share, total=total, text=self._describe(state))
        elif time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            say(self._console, self._describe(state))

    @contextmanager
    def progress(self, limits: Limits, state: TrainingState) -> Iterator[None]:
        """Show progress towards the limits while inside."""
        self._limits, self._last_line = limits, time.monotonic()
        columns = (BarColumn(bar_width=24), TextColumn("{task.fields[text]}"), TimeElapsedColumn())
        with Progress(*columns, console=self._console, disable=not self._console.is_terminal) as bar:
            self._bar = bar
            bar.add_task("training", text="", total=None)
            try:
                yield
            finally:
                self._bar = None
                if self._tensorboard is not None:
                    self._tensorboard.flush()

    def _describe(self, state: TrainingState) -> str:
        loss = "…" if self._loss is None else f"{self._loss:.4f}"
        rate = "…" if self._rate is None else f"{self._rate:.1f}"
        share = state.progress(self._limits)
        left = f", {_duration(state.seconds * (1 / share - 1))} left" if share > 0 else ""
        return f"step {state.step:,}, {state.images:,} images, {rate} images/s, loss {loss}{left}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _tensorboard_writer(run: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(run / "tensorboard")
