"""How fast do batches come from the memory-mapped store, and what part of a training step do they take?

    python -m benchmarks loading

Warm: the store is in the page cache. Cold: it was dropped from it, as a store larger than memory would be. With and
without reading ahead, and the same pictures decoded from their PNGs every time, as a folder trainer does.
"""

import argparse
import io
import mmap
import os
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from benchmarks.steps import training_step
from PIL import Image

from nelbo.data import IntakeOptions, Store, open_store
from nelbo.presets import PRESETS
from nelbo.training.allocator import keep_freed_memory
from nelbo.training.batches import Batches

CPU = torch.device("cpu")
BATCHES = 20


def drop_from_cache(store: Store) -> None:
    """Tell the system that the store's pages are not wanted any more, here or in its cache."""
    store.images.base.madvise(mmap.MADV_DONTNEED)  # type: ignore[union-attr]
    for file in store.path.iterdir():
        with file.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def milliseconds(prepare: Callable[[], None], work: Callable[[int], object], meanwhile: float = 0.0) -> float:
    """Median of one call among BATCHES, while so many seconds lie between two of them."""
    times = []
    for number in range(BATCHES):
        prepare()
        time.sleep(meanwhile)
        begun = time.perf_counter()
        work(number)
        times.append(time.perf_counter() - begun)
    return 1e3 * statistics.median(times[1:])


def main(arguments: list[str]) -> None:
    argparse.ArgumentParser(prog="python -m benchmarks loading", description=__doc__).parse_args(arguments)
    keep_freed_memory()
    config = PRESETS["quick"].config
    size = config.training.batch_size
    store = open_store("builtin:emoji", IntakeOptions())
    indices = np.arange(len(store))

    def fresh() -> Batches:
        return Batches(store.images, indices, seed=0, flip=False, device=CPU)

    pngs = []
    for picture in store.images:
        stream = io.BytesIO()
        Image.fromarray(picture.transpose(1, 2, 0)).save(stream, "png")
        pngs.append(stream.getvalue())
    order = np.random.default_rng(0).permutation(len(pngs))

    def decode(number: int) -> torch.Tensor:
        chosen = order[number * size : (number + 1) * size]
        pictures = np.stack([np.asarray(Image.open(io.BytesIO(pngs[i]))) for i in chosen])
        return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1

    step = training_step(config, CPU)
    for _ in range(3):
        step()
    a_step = milliseconds(lambda: None, lambda _: step())
    warm, cold = fresh(), fresh()
    rows = {
        "warm, nothing read ahead": milliseconds(lambda: None, lambda n: warm.batch(5 * n * size, size)),
        "warm, read ahead": milliseconds(lambda: None, lambda n: warm.batch(n * size, size), 0.05),
        "cold, nothing read ahead": milliseconds(
            lambda: drop_from_cache(store), lambda n: cold.batch(5 * n * size, size)
        ),
        "cold, read ahead": milliseconds(
            lambda: drop_from_cache(store), lambda n: cold.batch(n * size, size), 0.05
        ),
        "PNGs decoded each time": milliseconds(lambda: None, decode),
    }
    print(
        f"a training step of quick, batch {size}: {a_step:.0f} ms\n\n"
        f"| batch of {size} | ms | of a step |\n|---|---|---|"
    )
    for name, taken in rows.items():
        print(f"| {name} | {taken:.2f} | {taken / a_step:.1%} |")
