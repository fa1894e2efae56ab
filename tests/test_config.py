"""The configuration as JSON: what goes out comes back, and what is wrong is named."""

import json
from dataclasses import replace

import pytest

from nelbo.config import (
    Config,
    ConfigError,
    ProcessConfig,
    TrainingConfig,
    as_option,
    check,
    from_json,
    to_json,
)
from nelbo.presets import PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_survives_json(name):
    config = PRESETS[name].config
    assert from_json(Config, json.loads(json.dumps(to_json(config)))) == config


def test_fields_that_are_left_out_have_their_defaults():
    assert from_json(Config, {"data": {"image_size": [8, 16]}}).data.image_size == (8, 16)
    assert from_json(Config, {}) == Config()
    # A whole number is a number, and comes back as one.
    rate = from_json(Config, {"training": {"learning_rate": 1}}).training.learning_rate
    assert (rate, type(rate)) == (1.0, float)


@pytest.mark.parametrize(
    ("group", "field", "value", "message"),
    [
        ("data", "colour", 1, r"here: data has an unknown field 'colour'; was it written by a newer nelbo\?"),
        (
            "data",
            "image_size",
            64,
            r"here: data: image_size is 64; it must be a list of 2 of: a whole number",
        ),
        ("data", "image_size", [64], r"image_size is \[64\]; it must be a list of 2 of: a whole number"),
        ("data", "image_size", [64, "64"], r"image_size is '64'; it must be a whole number"),
        ("data", "channels", 2, r"data: channels is 2; choose one of 1, 3"),
        ("data", "channels", True, r"data: channels is True; choose one of 1, 3"),
        ("data", "fit", "stretch", r"fit is 'stretch'; choose one of crop, pad"),
        ("data", "flip", 1, r"flip is 1; it must be true or false"),
        ("data", "held_out", "0.1", r"held_out is '0.1'; it must be a number"),
        ("data", "held_out", True, r"held_out is True; it must be a number"),
        ("network", "base_width", 64.0, r"base_width is 64.0; it must be a whole number"),
        ("network", "base_width", None, r"base_width is None; it must be a whole number"),
        (
            "network",
            "multipliers",
            2,
            r"multipliers is 2; it must be a list of any number of: a whole number",
        ),
        ("network", "multipliers", [1, 2.5], r"multipliers is 2.5; it must be a whole number"),
        ("process", "schedule", "sigmoid", r"schedule is 'sigmoid'; choose one of linear, cosine"),
    ],
)
def test_what_is_wrong_is_named(group, field, value, message):
    values = to_json(Config())
    values[group][field] = value
    with pytest.raises(ConfigError, match=message):
        from_json(Config, values, "here")


def test_a_group_must_be_an_object():
    with pytest.raises(ConfigError, match=r"here: data must be an object, not list"):
        from_json(Config, {"data": []}, "here")


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("base_width", 64, "--base-width 64"),
        ("multipliers", (1, 2), "--multipliers 1 2"),
        ("flip", True, "--flip"),
        ("flip", False, "--no-flip"),
    ],
)
def test_a_field_as_it_is_typed(name, value, text):
    assert as_option(name, value) == text


@pytest.mark.parametrize("name", PRESETS)
def test_presets_pass_the_check(name):
    check(PRESETS[name].config)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("muon_learning_rate", 0.0),
        ("warmup_images", -1),
        ("weight_decay", -0.1),
        ("beta2", 1.0),
        ("beta2", -0.1),
        ("timestep_shift", 0.0),
        ("label_dropout", 1.0),
        ("clip_norm", 0.0),
        ("ema_half_life", 0),
        ("ema_warmup", 0.0),
    ],
)
def test_numbers_that_make_no_run_are_refused(field, value):
    config = replace(Config(), training=replace(TrainingConfig(), **{field: value}))
    with pytest.raises(ConfigError, match=f"--{field.replace('_', '-')} is {value}; give "):
        check(config)


@pytest.mark.parametrize("held_out", [0.0, 1.0, -0.1, float("nan")])
def test_a_held_out_share_is_a_share(held_out):
    with pytest.raises(ConfigError, match=r"--held-out is .*; give a share between 0 and 1"):
        check(replace(Config(), data=replace(Config().data, held_out=held_out)))


@pytest.mark.parametrize(
    ("objective", "fits"), [("simple", False), ("weighted", False), ("hybrid", True), ("variational", True)]
)
def test_a_learned_variance_needs_an_objective_that_teaches_it(objective, fits):
    config = Config(
        process=ProcessConfig(variance="learned-range"), training=TrainingConfig(objective=objective)
    )
    if fits:
        check(config)
    else:
        with pytest.raises(ConfigError, match=f"--objective {objective}; choose --objective hybrid"):
            check(config)
