"""The training loop: Algorithm 1 of the lecture, and what makes it a tool.

Read it top to bottom. What step s draws depends on the seed and on the numbers of its examples alone (and on the
losses so far, where t is drawn by them; the checkpoint holds those), so a run that was interrupted goes on exactly
as it would have.
"""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from nelbo.reverse import ReverseProcess
from nelbo.training import checkpoint
from nelbo.training.allocator import keep_freed_memory
from nelbo.training.batches import Batches
from nelbo.training.log import TrainingLog
from nelbo.training.settings import Limits, TrainingConfig
from nelbo.training.state import TrainingState
from nelbo.training.step import Figures, Step, compilation_pays
from nelbo.training.timesteps import LossHistory

LOG_EVERY = 10


class DivergedError(RuntimeError):
    """A loss or a gradient that is not a number; the message says where."""


@dataclass(frozen=True)
class Outcome:
    """How a call of ``train`` ended: at its limit, or because it was asked to stop."""

    step: int
    images: int
    seconds: float
    interrupted: bool


def train(
    reverse: ReverseProcess,
    batches: Batches,
    settings: TrainingConfig,
    limits: Limits,
    checkpoints: Path,
    log: TrainingLog,
    draw_samples: Callable[[int], None] | None = None,
) -> Outcome:
    """Train until a limit is reached, from the newest checkpoint if there is one.

    Args:
        reverse: p_θ, on the device of ``batches``; its network is changed in place.
        batches: the training examples.
        settings: how to train.
        limits: when to end, and when to write.
        checkpoints: the directory of checkpoints.
        log: where the figures go.
        draw_samples: called with the step, every ``limits.sample_minutes``, while the network holds its average.

    Returns:
        How far it came.

    Raises:
        DivergedError: at a loss or gradient that is not finite; the checkpoints stay. On a CPU the step is not
            taken, on a GPU it is noticed when the next figure is due.
        CheckpointError: if one cannot be written, or the newest is of another network.
    """
    keep_freed_memory()
    device = batches.device
    network = _module(reverse.network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    by_loss = settings.timesteps == "loss-second-moment"
    history = LossHistory(reverse.schedule.num_timesteps) if by_loss else None
    state = TrainingState.fresh(network, settings, history)

    found, problems = checkpoint.newest(checkpoints)
    for problem in problems:
        log.warn(f"passed over a damaged checkpoint: {problem}")
    if found is not None:
        state.restore(found)
        log.resumed(found.path, state)
    log.rewind(state.step)

    def save() -> None:
        path = checkpoint.write(checkpoints, state.step, state.parts(), state.counters(), keep=limits.keep)
        log.saved(path)

    compiled = settings.compile == "on" or (
        settings.compile == "auto" and compilation_pays(device, limits.max_minutes)
    )
    if compiled:
        log.compiling()
    step = Step(reverse, settings, state, compiled=compiled)
    unread: list[Figures] = []

    def read() -> None:
        for figures in unread:
            if not figures.are_finite():
                taken = figures.step <= state.step
                raise DivergedError(_where_it_diverged(reverse, figures, batches, taken=taken))
            state.loss_sum += float(figures.loss)
            state.loss_count += 1
        unread.clear()

    reverse.train()
    since = time.monotonic() - state.seconds
    with _stop_requests() as stop, log.progress(limits, state):
        while state.progress(limits) < 1 and not stop.is_set():
            rate_factor = _rate_factor(state, settings, limits)
            unread.append(step.gradient(batches.batch(state.images, settings.batch_size)))
            figures = unread[-1]
            if _reads_at_once(device):
                read()
            step.update(figures, rate_factor)

            before, state.seconds = state.seconds, time.monotonic() - since
            log.step(state)
            at_line = state.step % LOG_EVERY == 0
            at_samples = draw_samples is not None and _passes(before, state.seconds, limits.sample_minutes)
            at_checkpoint = _passes(before, state.seconds, limits.checkpoint_minutes)
            if at_line or at_samples or at_checkpoint:
                read()
            if at_line:
                rate, norm = settings.learning_rate * rate_factor, float(figures.norm)
                log.metrics(state, learning_rate=rate, gradient_norm=norm)
                state.loss_sum, state.loss_count = 0.0, 0
            if at_samples and draw_samples is not None:
                with state.ema.swapped_in():
                    reverse.eval()
                    draw_samples(state.step)
                    reverse.train()
            if at_checkpoint:
                save()
        read()
        if found is None or state.step > int(found.state["step"]):
            save()
    reverse.eval()
    return Outcome(state.step, state.images, state.seconds, interrupted=stop.is_set())


def _module(network: object) -> torch.nn.Module:
    if not isinstance(network, torch.nn.Module):
        raise TypeError(
            f"a {type(network).__name__} has no weights to train; give a torch.nn.Module as network"
        )
    return network


def _reads_at_once(device: torch.device) -> bool:
    """Reading a figure makes the host wait for a GPU: there it is done when there is something to write."""
    return device.type == "cpu"


def _rate_factor(state: TrainingState, settings: TrainingConfig, limits: Limits) -> float:
    """A linear warm-up, and a cosine decay to the end of the run if wanted."""
    warmup = min(1.0, (state.images + settings.batch_size) / max(1, settings.warmup_images))
    return warmup * (0.5 + 0.5 * math.cos(math.pi * state.progress(limits)) if settings.decay else 1.0)


def _passes(before: float, now: float, minutes: float) -> bool:
    """Whether a multiple of so many minutes lies between two times, in seconds."""
    return minutes > 0 and int(before / (60 * minutes)) < int(now / (60 * minutes))


def _where_it_diverged(reverse: ReverseProcess, figures: Figures, batches: Batches, *, taken: bool) -> str:
    """What was not finite: some losses, the weights, or a gradient only. If it was taken, the weights are lost."""
    losses, t = figures.losses.tolist(), figures.t.tolist()
    images = batches.indices[batches.places(figures.first, len(losses))]
    bad = [i for i, value in enumerate(losses) if not math.isfinite(value)]
    named = list(reverse.named_parameters())
    weights = [name for name, p in named if not taken and not torch.isfinite(p).all()]
    gradients = [
        name for name, p in named if not taken and p.grad is not None and not torch.isfinite(p.grad).all()
    ]
    if weights:
        what = f"the weights {weights[0]} (and {len(weights) - 1} more) were not finite before it"
    elif bad:
        pairs = ", ".join(f"image {images[i]} at t = {t[i]}" for i in bad[:4])
        what = f"the loss of {len(bad)} of {len(losses)} images: {pairs}"
    else:
        what = f"the gradient of {gradients[0] if gradients else 'the whole network'}"
    return (
        f"step {figures.step} is not finite: {what}. {'Training ended' if taken else 'The step was not taken'};"
        " the last good checkpoint stands. Try a lower --learning-rate or --precision float32"
    )


@contextmanager
def _stop_requests() -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets: the step in hand is finished first. A second Ctrl-C ends at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def request(number: int, _frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
