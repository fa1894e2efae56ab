import dataclasses
import json
import shutil

import pytest

import nelbo
from nelbo import calibration
from nelbo.calibration import Cost
from nelbo.cli import main
from nelbo.cli import train as train_command
from nelbo.presets import PRESETS
from nelbo.run import read_config


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if "tensorboard" not in p.parts)


def test_a_run_is_what_the_design_says(run, photos):
    assert files(run) == [
        "checkpoints",
        "checkpoints/step-00000012",
        *(f"checkpoints/step-00000012/{name}" for name in (
            "ema.safetensors", "manifest.json", "network.safetensors", "optimizer.safetensors", "state.json")),
        "config.json",
        "metrics.jsonl",
    ]  # fmt: skip
    config = read_config(run)
    assert config.source == str(photos)
    assert config.config.network.multipliers == (1, 2)
    assert config.config.data.image_size == (16, 16)
    preset = PRESETS["quick"].config.training
    assert config.config.training == dataclasses.replace(preset, batch_size=4)
    assert 0 < config.held_out_threshold < 1
    (line,) = (run / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["step"] == 10
    assert sum(p.numel() for p in nelbo.load(run).parameters()) > 10_000


def test_the_same_command_again_says_that_it_is_done(run, train, capsys):
    before = {name: (run / name).stat().st_mtime_ns for name in files(run)}
    assert train(run, "--max-steps", 12) == 0
    shown = capsys.readouterr().out
    assert "resuming from step-00000012" in shown
    assert "trained: 12 steps, 48 images" in shown
    assert "to train longer, raise the limit" in shown
    assert {name: (run / name).stat().st_mtime_ns for name in files(run)} == before


@pytest.mark.parametrize("option", ["--max-steps", "--max_steps"])
def test_a_higher_limit_goes_on(run, train, capsys, option):
    assert train(run, option, 13) == 0
    shown = capsys.readouterr().out
    assert "resuming from step-00000012" in shown
    assert "trained: 13 steps, 52 images" in shown
    assert (run / "checkpoints" / "step-00000013").is_dir()


@pytest.fixture
def limits_of(monkeypatch):
    """The limits that a command line comes to; nothing is trained."""

    def limits_of(*arguments):
        seen = []
        monkeypatch.setattr(train_command, "train", lambda args: seen.append(args.limits) or 0)
        assert main(["train", "photos", "--out", "run", *arguments]) == 0
        return seen[0]

    return limits_of


@pytest.mark.parametrize("spelling", [["--max-steps", "5"], ["--max-steps=5"], ["--max_steps", "5"]])
@pytest.mark.parametrize("preset", [[], ["--preset", "ddpm"], ["--preset=overnight"]])
def test_a_limit_replaces_those_of_the_preset(limits_of, spelling, preset):
    limits = limits_of(*preset, *spelling)
    assert (limits.max_steps, limits.max_images, limits.max_minutes) == (5, None, None)
    assert limits.sample_minutes == limits_of(*preset).sample_minutes  # what is no limit stays


def test_without_a_limit_it_is_the_presets(limits_of):
    for name, preset in PRESETS.items():
        assert limits_of("--preset", name) == preset.limits
    assert limits_of() == PRESETS["quick"].limits
    assert limits_of("--max-minutes", "1").max_minutes == 1


@pytest.fixture
def preset_of(monkeypatch):
    """The preset and the configuration that a command line comes to, where training costs what is given here."""

    def preset_of(*arguments, rates=(100.0, 10.0, 1.0)):
        seen, costs = [], dict(zip(PRESETS, rates))

        def cost_of(config, device):
            (name,) = [
                n for n, p in PRESETS.items() if p.config.network.base_width == config.network.base_width
            ]
            seen.append(name)
            return Cost(costs[name], 100.0, 1)

        monkeypatch.setattr(calibration, "cost_of", cost_of)
        monkeypatch.setattr(train_command, "train", lambda args: seen.append(args) or 0)
        assert main(["train", "photos", "--out", "run", *arguments]) == 0
        *measured, args = seen
        assert args.config == dataclasses.replace(PRESETS[args.preset].config, data=args.config.data)
        return args, measured

    return preset_of


def test_max_minutes_takes_the_preset_that_is_best_for_so_long_here(preset_of, capsys):
    enough = PRESETS["overnight"].worth_from / 600  # minutes, at ten images a second
    args, measured = preset_of("--max-minutes", f"{1.1 * enough}")
    assert (args.preset, measured) == (
        "overnight",
        ["quick", "overnight"],
    )  # a hundred times as many would be worth the next
    assert args.limits.max_minutes == 1.1 * enough
    assert args.limits.sample_minutes == PRESETS["overnight"].limits.sample_minutes
    shown = capsys.readouterr().out
    assert "quick: 100 images/s here" in shown
    assert f"worth it from {PRESETS['overnight'].worth_from:,}" in shown
    assert "training with --preset overnight" in shown
    args, measured = preset_of(f"--max_minutes={0.9 * enough}", "--flip", "--preset", "auto")
    assert (args.preset, measured) == ("quick", ["quick", "overnight"])  # the next are larger still
    assert args.config.data.flip
    assert args.limits.max_minutes == 0.9 * enough


@pytest.mark.parametrize(
    ("arguments", "preset"),
    [
        ([], "quick"),
        (["--max-images", "1000000000"], "quick"),
        (["--max-minutes", "1.5"], "quick"),
        (["--max-minutes", "1e6", "--preset", "quick"], "quick"),
        (["--max-minutes", "20", "--preset=ddpm"], "ddpm"),
    ],
)
def test_nothing_is_measured_where_there_is_nothing_to_choose(preset_of, arguments, preset):
    args, measured = preset_of(*arguments)
    assert (args.preset, measured) == (preset, [])


def test_going_on_needs_no_option_but_the_limit(run, photos, capsys, monkeypatch):
    """The run's own configuration is taken, whatever a calibration would say now."""
    monkeypatch.setattr(calibration, "cost_of", lambda *_: pytest.fail("measured again"))
    where = ["train", str(photos), "--out", str(run), "--sample-minutes", "0"]
    assert main([*where, "--max-steps", "13", "--max-minutes", "60"]) == 0
    assert "resuming from step-00000012" in capsys.readouterr().out
    assert main([*where, "--max-steps", "14", "--batch-size", "5"]) == 2
    assert "was started with --batch-size 4, this command says --batch-size 5" in capsys.readouterr().err
    assert main([*where, "--max-steps", "14", "--preset", "overnight"]) == 2
    assert "was started with" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "before", "now"),
    [
        (["--flip"], "--no-flip", "--flip"),
        (["--multipliers", "1", "1"], "--multipliers 1 2", "--multipliers 1 1"),
        (["--num-timesteps", "31"], "--num-timesteps 30", "--num-timesteps 31"),
        (["--held-out", "0.2"], "--held-out 0.3", "--held-out 0.2"),
    ],
)
def test_a_changed_option_is_refused_by_name(run, train, capsys, changed, before, now):
    assert train(run, "--max-steps", 99, *changed) == 2
    shown = capsys.readouterr().err
    assert f"was started with {before}, this command says {now}; choose another --out" in shown
    assert not (run / "checkpoints" / "step-00000099").exists()


def test_other_data_are_refused(run, train, capsys, other_photos):
    assert train(run, "--max-steps", 99, data=other_photos) == 2
    assert f"not on {other_photos}; choose another --out" in capsys.readouterr().err


def test_data_may_be_named_from_anywhere(run, train, photos, monkeypatch):
    monkeypatch.chdir(photos.parent)
    assert train(run, "--max-steps", 12, data="photos") == 0


def test_a_run_that_ended_before_its_first_checkpoint_can_be_begun_again(run, train):
    """A learning rate that diverged at once must not lock its directory."""
    shutil.rmtree(run / "checkpoints")
    assert train(run, "--max-steps", 1, "--learning-rate", "0.0005") == 0
    assert read_config(run).config.training.learning_rate == 0.0005


def test_samples_are_drawn_on_the_way(tmp_path, train):
    """A sixteenth of a millisecond between grids: one after every step."""
    assert train("run", "--max-steps", 1, "--sample-minutes", "1e-6") == 0
    (grid,) = (tmp_path / "run" / "samples").iterdir()
    assert grid.name == "step-00000001.png"


def test_a_bracket_in_a_path_is_no_markup(tmp_path, train, capsys):
    assert train("run[b]", "--max-steps", 1) == 0
    assert "run: run[b]\n" in capsys.readouterr().out
    assert main(["sample", "run[b]", "--num", "1", "--steps", "1", "--device", "cpu"]) == 0
    assert "1 images in run[b]/samples/seed-0\n" in capsys.readouterr().out
