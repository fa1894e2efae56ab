import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.testing import assert_close

from nelbo import NoiseSchedule, UNet, variational, variational_bound
from nelbo.data import levels_to_unit
from nelbo.objectives import simple
from nelbo.training import checkpoint, loop, step
from nelbo.training.checkpoint import CheckpointError
from nelbo.training.loop import DivergedError, _passes, _rate_factor
from nelbo.training.precision import autocast, chosen_device
from nelbo.training.settings import Limits, TrainingConfig
from nelbo.training.state import TrainingState

BITWISE = {"rtol": 0, "atol": 0}
BY_LOSS = {"objective": "variational", "timesteps": "loss-second-moment"}


def files(run):
    newest, _ = checkpoint.newest(run / "checkpoints")
    return {file.stem: newest.tensors(file.stem) for file in newest.path.glob("*.safetensors")}


def losses(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"], line["gradient_norm"], line["learning_rate"]) for line in lines]


@pytest.mark.parametrize("timesteps", ["uniform", "loss-second-moment"])
def test_a_run_in_two_parts_is_bitwise_the_run_in_one(timesteps, run_training, make_reverse, tmp_path):
    """With dropout, flips, warm-up and decay on, stopped within an epoch and between two lines of the log."""
    if timesteps == "uniform":
        schedule, changes = NoiseSchedule.linear(40), {}
    else:  # four steps: the history of losses is full before the interruption
        schedule, changes = NoiseSchedule.cosine(4), BY_LOSS
    run_training(tmp_path / "whole", make_reverse(schedule), changes, max_steps=30)

    run = tmp_path / "interrupted"
    reverse = make_reverse(schedule)
    reverse.network.register_forward_pre_hook(_interrupt_at(17))
    _, outcome = run_training(run, reverse, changes, max_steps=30)
    assert outcome.interrupted
    assert outcome.step == 17
    parts = {"network", "ema", "optimizer"}
    if timesteps != "uniform":
        parts.add("timesteps")
        assert files(run)["timesteps"]["counts"].min() >= 10
    _, outcome = run_training(run, make_reverse(schedule), changes, max_steps=30)
    assert outcome.step == 30
    assert not outcome.interrupted
    assert files(run).keys() == files(tmp_path / "whole").keys() == parts
    for part, tensors in files(tmp_path / "whole").items():
        for name, value in files(run)[part].items():
            assert_close(value, tensors[name], **BITWISE)
    assert losses(run) == losses(tmp_path / "whole")


def _interrupt_at(call):
    calls = 0

    def hook(module, inputs):
        nonlocal calls
        calls += 1
        if calls == call:
            signal.raise_signal(signal.SIGINT)

    return hook


def test_training_makes_the_bound_better(run_training, make_reverse, pictures, tmp_path):
    x_0 = levels_to_unit(torch.from_numpy(pictures[:8]))

    def bits(reverse):
        return float(
            variational_bound(
                reverse.eval(), x_0, generator=torch.Generator().manual_seed(0)
            ).bits_per_dim.mean()
        )

    before = bits(make_reverse())
    reverse, _ = run_training(tmp_path / "run", max_steps=150)
    assert bits(reverse) < before - 1


def test_lines_of_steps_that_a_crash_undid_are_dropped(run_training, tmp_path):
    run_training(tmp_path / "run", max_steps=20)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as stream:
        stream.write(
            json.dumps({"step": 30, "loss": 1.0, "gradient_norm": 1.0, "learning_rate": 1.0}) + '\n{"step": 4'
        )
    run_training(tmp_path / "run", max_steps=30)
    assert [step for step, *_ in losses(tmp_path / "run")] == [10, 20, 30]


@pytest.mark.parametrize("where", ["output", "gradient", "weights"])
def test_what_is_not_finite_stops_the_step_and_is_named(where, run_training, make_reverse, tmp_path):
    run_training(tmp_path / "run", max_steps=7)
    good = files(tmp_path / "run")
    reverse = make_reverse()
    if where == "output":
        reverse.network.conv_out.register_forward_hook(
            lambda *_: _[2].index_fill(0, torch.tensor([2]), math.nan)
        )
        message = r"step 8 is not finite: the loss of 1 of 6 images: image \d+ at t = \d+"
    elif where == "gradient":
        reverse.network.conv_in.weight.register_hook(lambda grad: grad * math.inf)
        message = r"step 8 is not finite: the gradient of network\.conv_in\.weight"
    else:
        reverse.network.conv_out.register_forward_pre_hook(_poison)
        message = r"step 8 is not finite: the weights network\.conv_out\.bias \(and 0 more\)"
    with pytest.raises(DivergedError, match=message):
        run_training(tmp_path / "run", reverse, max_steps=20)
    for part, tensors in files(tmp_path / "run").items():
        for name, value in tensors.items():
            assert_close(value, good[part][name], **BITWISE)


@pytest.fixture
def reads_late(monkeypatch):
    """As on a GPU, where the host does not wait for the figures of every step."""
    monkeypatch.setattr(loop, "_reads_at_once", lambda device: False)


def test_figures_that_are_read_late_change_nothing(run_training, tmp_path, monkeypatch):
    run_training(tmp_path / "at-once", max_steps=23)
    monkeypatch.setattr(loop, "_reads_at_once", lambda device: False)
    run_training(tmp_path / "late", max_steps=23)
    assert losses(tmp_path / "late") == losses(tmp_path / "at-once")
    for part, tensors in files(tmp_path / "at-once").items():
        for name, value in tensors.items():
            assert_close(files(tmp_path / "late")[part][name], value, **BITWISE)


def test_what_is_not_finite_is_named_late_and_never_saved(reads_late, run_training, make_reverse, tmp_path):
    run_training(tmp_path / "run", max_steps=7)
    reverse, calls = make_reverse(), []

    def spoil_the_first(module, inputs, output):
        calls.append(1)
        return output.index_fill(0, torch.tensor([2]), math.nan) if len(calls) == 1 else None

    reverse.network.conv_out.register_forward_hook(spoil_the_first)
    message = (
        r"step 8 is not finite: the loss of 1 of 6 images: image \d+ at t = \d+\. Training ended; the last"
    )
    with pytest.raises(DivergedError, match=message):
        run_training(tmp_path / "run", reverse, max_steps=20)
    assert len(calls) == 3  # at the tenth step there was a line to write
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000007"]


def test_a_compiled_run_says_so(run_training, make_reverse, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(step, "_compiled", lambda function: compiled.append(function) or function)
    run_training(tmp_path / "run", changes={"compile": "on"}, max_steps=2)
    assert len(compiled) == 1
    assert "compiling the network" in (tmp_path / "run" / "out.txt").read_text()
    run_training(tmp_path / "other", changes={"compile": "auto"}, max_steps=2)
    assert len(compiled) == 1


def _poison(module, inputs):
    module.bias.data[0] = math.nan


def test_the_loss_that_is_logged_estimates_the_objective_however_t_is_drawn(
    run_training, make_reverse, pictures, tmp_path
):
    """The network stands still. 8.9 bits, standard errors 0.015 (logged) and 0.007 (here); unweighted, 25 bits."""
    schedule = NoiseSchedule.cosine(4)
    still = {**BY_LOSS, "learning_rate": 1e-12, "muon_learning_rate": 1e-12}
    run_training(tmp_path / "run", make_reverse(schedule), still, max_steps=60)
    logged = torch.tensor([loss for step, loss, *_ in losses(tmp_path / "run") if step > 10])

    x_0 = levels_to_unit(torch.from_numpy(pictures)).repeat(10, 1, 1, 1)
    with torch.no_grad():
        terms = torch.stack(
            [variational(make_reverse(schedule), x_0, torch.randn_like(x_0), t).mean() for t in range(1, 5)]
        )
    assert abs(float(logged.mean() - terms.mean())) < 0.06


def test_another_networks_checkpoint_is_refused(run_training, make_reverse, tmp_path):
    run_training(tmp_path / "run", max_steps=2)
    other = make_reverse()
    other.network = UNet(
        3, base_width=16, multipliers=(1, 2), blocks_per_level=1, attention_levels=(), groups=4
    )
    with pytest.raises(CheckpointError, match="is not of this run's network"):
        run_training(tmp_path / "run", other, max_steps=4)


def test_a_finished_run_does_nothing_more(run_training, tmp_path):
    run_training(tmp_path / "run", max_steps=3)
    before = {f: f.stat().st_mtime_ns for f in (tmp_path / "run").rglob("*.safetensors")}
    _, outcome = run_training(tmp_path / "run", max_steps=3)
    assert outcome.step == 3
    assert before == {f: f.stat().st_mtime_ns for f in (tmp_path / "run").rglob("*.safetensors")}


def test_every_limit_ends_a_run(run_training, tmp_path):
    assert run_training(tmp_path / "a", max_images=20)[1].images == 24
    begun = time.monotonic()
    _, outcome = run_training(tmp_path / "b", max_minutes=1 / 60)
    assert 1 <= outcome.seconds < time.monotonic() - begun + 1
    assert run_training(tmp_path / "c", max_images=6, max_steps=100)[1].step == 1


def state_at(**values):
    network = torch.nn.Linear(1, 1)
    state = TrainingState.fresh(network, TrainingConfig())
    for name, value in values.items():
        setattr(state, name, value)
    return state


def test_the_learning_rate_warms_up_and_falls_to_zero():
    settings, limits = TrainingConfig(batch_size=10, warmup_images=100, decay=True), Limits(max_images=1000)
    rates = [_rate_factor(state_at(images=n), settings, limits) for n in range(0, 1000, 10)]
    assert rates[0] == pytest.approx(0.1, rel=1e-3)
    assert max(rates) == pytest.approx(rates[9])
    assert rates[50] == pytest.approx(0.5)
    assert rates[-1] < 1e-3
    constant = TrainingConfig(batch_size=10, warmup_images=100, decay=False)
    assert _rate_factor(state_at(images=990), constant, limits) == 1


def test_progress_is_that_of_the_nearest_limit():
    limits = Limits(max_steps=10, max_images=100, max_minutes=1.0)
    assert state_at(step=5, images=80, seconds=6.0).progress(limits) == 0.8
    assert state_at(step=9, images=80, seconds=6.0).progress(limits) == 0.9
    assert state_at(step=5, images=10, seconds=45.0).progress(limits) == 0.75
    assert state_at(step=5, images=10, seconds=120.0).progress(limits) == 1
    assert state_at(step=5).progress(Limits()) == 0
    assert _passes(59.0, 61.0, 1.0)
    assert not _passes(61.0, 119.0, 1.0)
    assert not _passes(0.0, 1e9, 0.0)


def test_the_noise_and_the_loss_stay_float32_under_bfloat16(make_reverse):
    """Only the network runs in bfloat16: the loss differs by its rounding, not by lost noise at t = 1."""
    reverse = make_reverse().eval()
    torch.nn.init.normal_(reverse.network.conv_out.weight, std=0.1)
    x_0, eps = torch.rand(4, 3, 8, 8) * 2 - 1, torch.randn(4, 3, 8, 8)
    t = torch.tensor([1, 2, 20, 40])
    exact = simple(reverse, x_0, eps, t)
    with autocast(torch.device("cpu"), "bfloat16"):
        narrow = simple(reverse, x_0, eps, t)
    assert narrow.dtype == torch.float32
    assert not torch.equal(narrow, exact)
    assert_close(narrow, exact, rtol=0.02, atol=0)


def test_unknown_devices_are_named():
    assert chosen_device("cpu").type == "cpu"
    for name in ("cuda:77", "nonsense"):
        with pytest.raises(ValueError, match=f"device '{name}' cannot be used here"):
            chosen_device(name)


@pytest.fixture
def folder(tmp_path, pictures):
    (tmp_path / "data").mkdir()
    for i, u in enumerate(pictures):
        Image.fromarray(u.transpose(1, 2, 0)).save(tmp_path / "data" / f"{i}.png")
    return tmp_path / "data"


def command(folder, run, steps):
    arguments = (
        f"train {folder} --out {run} --max-steps {steps} --image-size 8 8 --base-width 8 --multipliers 1 2"
        " --blocks-per-level 1 --attention-levels 1 --groups 4 --patch 1 --batch-size 4 --num-timesteps 40"
        " --coarse-pool 1 --checkpoint-minutes 0.004 --sample-minutes 0"
    )
    environment = {**os.environ, "NELBO_CACHE": str(folder.parent / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "nelbo", *arguments.split()], env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def test_killed_and_started_again_it_ends_where_it_would_have(folder, tmp_path):
    """SIGKILL at a moment of its own choosing, twice; the third start finishes."""
    steps = 120
    whole = command(folder, tmp_path / "whole", steps)
    assert whole.wait() == 0, whole.stdout.read()
    for _ in range(2):
        process = command(folder, tmp_path / "killed", steps)
        deadline = time.monotonic() + 120
        before = set((tmp_path / "killed").glob("checkpoints/step-*"))
        while not set((tmp_path / "killed").glob("checkpoints/step-*")) - before and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.kill()
        process.wait()
    last = command(folder, tmp_path / "killed", steps)
    output, _ = last.communicate()
    assert last.returncode == 0, output
    assert "resuming from step-" in output
    for part in ("network", "ema", "optimizer"):
        one, other = (
            load_file(tmp_path / run / "checkpoints" / f"step-{steps:08d}" / f"{part}.safetensors")
            for run in ("whole", "killed")
        )
        for name, value in one.items():
            assert_close(value, other[name], **BITWISE)
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
