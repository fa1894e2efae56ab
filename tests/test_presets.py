import dataclasses
import typing

import pytest

from nelbo.build import build
from nelbo.cli.train import Train
from nelbo.presets import DEFAULT_PRESET, PRESETS


@pytest.mark.parametrize("name", [n for n in PRESETS if n != "ddpm"])
def test_a_preset_is_a_model_that_takes_its_images(name):
    reverse = build(PRESETS[name].config)
    assert reverse.network.size_divisor <= 64


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_ends_and_says_whom_it_is_for(name):
    limits = PRESETS[name].limits
    assert any(limit is not None for limit in (limits.max_steps, limits.max_images, limits.max_minutes))
    assert PRESETS[name].summary
    assert limits.checkpoint_minutes > 0


def test_the_command_line_offers_every_preset():
    (offered, *_) = typing.get_args(typing.get_type_hints(Train, include_extras=True)["preset"])
    assert list(typing.get_args(offered)) == ["auto", *PRESETS]
    assert DEFAULT_PRESET in PRESETS


def test_no_option_has_the_name_of_another():
    """The command line leaves the groups' names out, so each field's own must be unique."""
    limits, config = PRESETS["quick"].limits, PRESETS["quick"].config
    groups = [limits, *(getattr(config, f.name) for f in dataclasses.fields(config))]
    names = [f.name for group in groups for f in dataclasses.fields(group)]
    names += [f.name for f in dataclasses.fields(Train)]
    assert len(names) == len(set(names))
