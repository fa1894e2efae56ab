"""A run on disk: its configuration, its checkpoints, and the model that is built from them."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import nelbo
from nelbo import FixedLarge, FixedSmall, LearnedRange, NoiseSchedule
from nelbo.build import build
from nelbo.config import Config, ConfigError, DataConfig, NetworkConfig, ProcessConfig, TrainingConfig
from nelbo.run import (
    RunConfig,
    check_writable,
    checkpoints_path,
    config_path,
    read_config,
    run_of,
    write_config,
    write_json,
)
from nelbo.training import checkpoint
from nelbo.training.checkpoint import CheckpointError

TINY = Config(
    data=DataConfig(image_size=(16, 16)),
    process=ProcessConfig(num_timesteps=30),
    network=NetworkConfig(
        base_width=8, multipliers=(1, 2), blocks_per_level=1, attention_levels=(1,), groups=4, dropout=0.3
    ),
)


@pytest.fixture
def run(tmp_path):
    """A run with checkpoints of steps 3 and 5, whose averages are all 0.3 and all 0.5."""
    path = tmp_path / "run"
    write_config(path, RunConfig("photos", 0.25, TINY))
    for step in (3, 5):
        weights = build(TINY).network.state_dict()
        parts = {
            "network": {name: torch.full_like(value, -step) for name, value in weights.items()},
            "ema": {name: torch.full_like(value, step / 10) for name, value in weights.items()},
            "optimizer": {},
        }
        checkpoint.write(checkpoints_path(path), step, parts, {"step": step}, keep=2)
    return path


def damage(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)


def value_of(reverse):
    (value,) = {v.item() for p in reverse.parameters() for v in (p.min(), p.max())}
    return pytest.approx(value, rel=1e-6)


def test_the_configuration_comes_back(tmp_path):
    config = RunConfig("Fotos/Öl", 0.1 + 0.2, replace(TINY, training=TrainingConfig(learning_rate=1e-7)))
    write_config(tmp_path / "new" / "run", config)
    assert read_config(tmp_path / "new" / "run") == config
    assert [p.name for p in (tmp_path / "new" / "run").iterdir()] == ["config.json"]
    assert "Fotos/Öl" in config_path(tmp_path / "new" / "run").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "config.json cannot be read"),
        ("\xff", "config.json cannot be read"),
        ("[]", "config.json must be an object, not list"),
        ('{"format": 2, "source": "a"}', "has format 2, this nelbo reads 1; update nelbo"),
        ('{"source": "a"}', "has format None, this nelbo reads 1"),
        ('{"format": 1}', "config.json lacks the field 'source'"),
        ('{"format": 1, "source": "a", "config": {}}', "lacks the field 'held_out_threshold'"),
        ('{"format": 1, "mode": 1}', "has an unknown field 'mode'"),
        (
            '{"format": 1, "source": 3, "held_out_threshold": 0, "config": {}}',
            "source is 3; it must be a text",
        ),
    ],
)
def test_a_configuration_that_cannot_be_used_says_why(tmp_path, text, message):
    config_path(tmp_path).write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=message) as caught:
        read_config(tmp_path)
    assert str(config_path(tmp_path)) in str(caught.value)


def test_what_is_no_run_says_how_to_make_one(tmp_path):
    with pytest.raises(
        ConfigError, match=f"{tmp_path} is not a run: it has no config.json; `nelbo train DATA"
    ):
        read_config(tmp_path)
    with pytest.raises(ConfigError, match="not a run: there is no such directory; `nelbo train DATA --out"):
        nelbo.load(tmp_path / "none")


def test_json_is_written_whole_or_not_at_all(tmp_path):
    write_json({"a": 1}, tmp_path / "x.json")
    for bad, error in (({"a": float("nan")}, ValueError), ({"a": object()}, TypeError)):
        with pytest.raises(error):
            write_json(bad, tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_load_takes_the_newest_average_in_eval_mode(run):
    reverse = nelbo.load(run)
    assert value_of(reverse) == 0.5
    assert not any(module.training for module in reverse.modules())
    assert reverse.schedule.num_timesteps == 30
    assert {p.dtype for p in reverse.parameters()} == {torch.float32}
    assert {p.device.type for p in reverse.parameters()} == {"cpu"}
    x = torch.zeros(2, 3, 16, 16)
    torch.testing.assert_close(reverse.predict(x, 7).x_0, reverse.predict(x, 7).x_0, rtol=0, atol=0)


def test_load_takes_a_checkpoint(run, monkeypatch):
    older = checkpoints_path(run) / "step-00000003"
    assert value_of(nelbo.load(older)) == 0.3
    assert value_of(nelbo.load(str(older))) == 0.3
    monkeypatch.chdir(older)
    assert value_of(nelbo.load(".")) == 0.3
    assert run_of(".").checkpoint_name(".") == "step-00000003"
    assert run_of(".").path == run


def test_every_weight_of_the_average_finds_its_place(tmp_path):
    source = build(TINY, seed=9).network.state_dict()
    source = {name: torch.randn_like(value) for name, value in source.items()}
    write_config(tmp_path, RunConfig("photos", 0.25, TINY))
    checkpoint.write(checkpoints_path(tmp_path), 1, {"ema": source}, {"step": 1}, keep=1)
    loaded = nelbo.load(tmp_path).network.state_dict()
    assert loaded.keys() == source.keys()
    for name, value in source.items():
        torch.testing.assert_close(loaded[name], value, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["ema.safetensors", "state.json"])
def test_a_damaged_newest_checkpoint_is_passed_over_and_it_says_so(run, name):
    damage(checkpoints_path(run) / "step-00000005" / name)
    with pytest.warns(UserWarning, match=f"using step-00000003, as a newer checkpoint is damaged.*{name}"):
        assert value_of(nelbo.load(run)) == 0.3
    with pytest.raises(CheckpointError, match=f"{name} is damaged"):
        nelbo.load(checkpoints_path(run) / "step-00000005")


def test_without_a_whole_checkpoint_it_says_why(run):
    for step in (3, 5):
        damage(checkpoints_path(run) / f"step-0000000{step}" / "ema.safetensors")
    with pytest.raises(
        CheckpointError, match=r"no usable checkpoint: .*5.ema.* is damaged.*; .*3.ema.* is damaged"
    ):
        nelbo.load(run)
    shutil.rmtree(checkpoints_path(run))
    with pytest.raises(CheckpointError, match="no usable checkpoint: training has not written one yet"):
        nelbo.load(run)


def test_a_checkpoint_of_another_network_is_refused(run):
    other = replace(TINY, network=replace(TINY.network, base_width=16))
    write_config(run, RunConfig("photos", 0.25, other))
    with pytest.raises(
        CheckpointError, match=r"step-00000005 does not fit .*config.json: size mismatch for [^\n]*more\)$"
    ):
        nelbo.load(run)


def test_the_same_seed_is_the_same_network_and_the_global_generator_is_left_alone():
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    first, same, other = build(TINY), build(TINY, seed=0), build(TINY, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(99)
    later = build(TINY)
    name = "network.conv_in.weight"
    assert torch.equal(first.state_dict()[name], same.state_dict()[name])
    assert torch.equal(first.state_dict()[name], later.state_dict()[name])
    assert not torch.equal(first.state_dict()[name], other.state_dict()[name])
    seeded = build(replace(TINY, training=TrainingConfig(seed=1)))
    assert torch.equal(seeded.state_dict()[name], other.state_dict()[name])


@pytest.mark.parametrize(
    ("size", "nearest"), [((15, 16), "Height 15: .* 14 and 16"), ((16, 7), "Width 7: .* 6 and 8")]
)
def test_sizes_that_do_not_fit_are_refused_with_sizes_that_do(size, nearest):
    with pytest.raises(ValueError, match=nearest):
        build(replace(TINY, data=DataConfig(image_size=size)))


def test_a_model_is_what_its_configuration_says():
    def of(**process):
        return build(replace(TINY, process=ProcessConfig(num_timesteps=50, **process)))

    assert isinstance(of().variance, FixedLarge)
    assert isinstance(of(variance="fixed-small").variance, FixedSmall)
    learned = of(variance="learned-range")
    assert isinstance(learned.variance, LearnedRange)
    assert learned.p_transition(torch.zeros(1, 3, 16, 16), 5).log_variance.shape == (1, 3, 16, 16)
    for name in ("eps", "x0", "v"):
        assert type(of(parameterization=name).parameterization).__name__ == {
            "eps": "Epsilon", "x0": "X0", "v": "V"
        }[name]  # fmt: skip
    assert of(clip=True).clip
    assert not of(clip=False).clip
    torch.testing.assert_close(of(schedule="cosine").schedule.betas, NoiseSchedule.cosine(50).betas)
    fine = of(schedule="fine").schedule
    torch.testing.assert_close(fine.betas, NoiseSchedule.cosine(50, s=0.0).betas)
    torch.testing.assert_close(of().schedule.betas, NoiseSchedule.linear(50).betas)
    gray = build(replace(TINY, data=DataConfig(image_size=(8, 12), channels=1)))
    assert gray.predict(torch.zeros(1, 1, 8, 12), 5).x_0.shape == (1, 1, 8, 12)


def test_a_place_that_cannot_be_written_to_is_refused_early(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    for place in (file, file / "a" / "b"):
        with pytest.raises(ConfigError, match=rf"{file} is no directory; choose another --out"):
            check_writable(place, "--out")
    check_writable(tmp_path / "a" / "b", "--out")
    check_writable(tmp_path, "--out")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_place_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match=r"no permission in .*; choose another --out"):
        check_writable(tmp_path / "a", "--out")
