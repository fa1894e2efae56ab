"""Contenders that take turns, A B A B, each in a process of its own: its own malloc, its own peak of memory.

Only one works at a time; the others wait at a pipe.
"""

import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import torch

from nelbo.training.allocator import keep_freed_memory

Prepare = Callable[..., tuple[Callable[[], object], dict[str, Any]]]
"""Gives what is to be timed, and facts about it (plain values)."""


@dataclass(frozen=True)
class Contender:
    """What is timed.

    Attributes:
        name: a row's title.
        prepare: called in the contender's process with ``arguments``; a function of a module, as it travels.
        arguments: for ``prepare``.
        keeps_memory: with nelbo's malloc settings, or with malloc as it comes.
    """

    name: str
    prepare: Prepare
    arguments: tuple[Any, ...] = ()
    keeps_memory: bool = True


@dataclass
class Timing:
    """What came of a contender."""

    name: str
    facts: dict[str, Any]
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)


def take_turns(
    contenders: Sequence[Contender], *, rounds: int, warm_up: int = 2, threads: int | None = None
) -> list[Timing]:
    """Time each once per round, in the given order; the first ``warm_up`` rounds are not counted."""
    context = multiprocessing.get_context("spawn")
    threads = torch.get_num_threads() if threads is None else threads
    pipes, processes, timings = [], [], []
    for contender in contenders:
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, contender, threads), daemon=True)
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
        timings.append(Timing(contender.name, ours.recv()))
    for number in range(warm_up + rounds):
        for pipe, timing in zip(pipes, timings):
            pipe.send("go")
            taken, peak = pipe.recv()
            timing.peak_bytes = peak
            if number >= warm_up:
                timing.seconds.append(taken)
    for pipe, process in zip(pipes, processes):
        pipe.send("stop")
        process.join()
    return timings


def _work(pipe: Connection, contender: Contender, threads: int) -> None:
    torch.set_num_threads(threads)
    if contender.keeps_memory:
        keep_freed_memory()
    step, facts = contender.prepare(*contender.arguments)
    pipe.send(facts)
    while pipe.recv() == "go":
        begun = time.perf_counter()
        step()
        taken = time.perf_counter() - begun
        pipe.send((taken, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))
