import io

import torch
from rich.console import Console

from nelbo.training.log import TrainingLog
from nelbo.training.settings import Limits, TrainingConfig
from nelbo.training.state import TrainingState


def test_the_time_left_is_by_the_nearest_limit(tmp_path):
    """A minute for a quarter of the images, more than the share of the steps: three more to come."""
    shown = io.StringIO()
    log = TrainingLog(tmp_path, Console(file=shown, force_terminal=True, width=120))
    state = TrainingState.fresh(torch.nn.Linear(1, 1), TrainingConfig())
    with log.progress(Limits(max_images=400, max_steps=100), state):
        log.step(state)  # nothing is done yet: nothing is known
        state.step, state.images, state.seconds = 20, 100, 60.0
        log.step(state)
    lines = shown.getvalue()
    assert "step 20, 100 images" in lines
    assert "3:00 left" in lines
    assert lines.count("left") == lines.count("3:00 left")
