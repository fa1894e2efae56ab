"""A tiny run: 16 images of 3×8×8, a network of a few thousand weights, 20 diffusion steps."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from nelbo import NoiseSchedule, ReverseProcess, UNet
from nelbo.training.batches import Batches
from nelbo.training.log import TrainingLog
from nelbo.training.loop import Outcome, train
from nelbo.training.settings import Limits, TrainingConfig

SETTINGS = TrainingConfig(
    optimizer="muon", batch_size=6, learning_rate=2e-3, warmup_images=12, decay=True, ema_half_life=30
)


@pytest.fixture
def pictures() -> np.ndarray:
    """Bright squares on a dark ground, each at a place of its own."""
    u = np.full((16, 3, 8, 8), 30, dtype=np.uint8)
    for i in range(16):
        u[i, :, i // 4 : i // 4 + 4, i % 4 : i % 4 + 4] = 230
    return u


@pytest.fixture
def make_reverse() -> Callable[..., ReverseProcess]:
    def make(schedule: NoiseSchedule | None = None) -> ReverseProcess:
        torch.manual_seed(0)
        network = UNet(
            3,
            base_width=8,
            multipliers=(1, 2),
            blocks_per_level=1,
            attention_levels=(),
            groups=4,
            dropout=0.1,
        )
        return ReverseProcess(network, schedule or NoiseSchedule.linear(40))

    return make


@pytest.fixture
def run_training(make_reverse, pictures) -> Callable[..., tuple[ReverseProcess, Outcome]]:
    """Train in a directory, as the command line does."""

    def run(
        where: Path,
        reverse: ReverseProcess | None = None,
        changes: dict[str, Any] | None = None,
        **limits: float,
    ) -> tuple[ReverseProcess, Outcome]:
        reverse = make_reverse() if reverse is None else reverse
        batches = Batches(pictures, np.arange(16), seed=5, flip=True, device=torch.device("cpu"))
        where.mkdir(exist_ok=True)
        console = Console(file=(where / "out.txt").open("a"), width=200)
        settings = replace(SETTINGS, **(changes or {}))
        outcome = train(
            reverse, batches, settings, Limits(**limits), where / "checkpoints", TrainingLog(where, console)
        )
        return reverse, outcome

    return run
