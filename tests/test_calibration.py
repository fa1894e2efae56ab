from dataclasses import replace

import pytest

from nelbo.calibration import Cost, best_preset, cost_of, images_in
from nelbo.config import Config, DataConfig, NetworkConfig
from nelbo.presets import PRESETS
from nelbo.training.settings import TrainingConfig

TINY = Config(
    data=DataConfig(image_size=(16, 16)),
    network=NetworkConfig(base_width=8, multipliers=(1, 2), blocks_per_level=1, groups=4),
    training=TrainingConfig(batch_size=4, objective="variational", timesteps="loss-second-moment"),
)


def test_a_cost_is_measured_in_a_process_of_its_own():
    cost = cost_of(TINY, "cpu", seconds=0.2)
    assert 1 < cost.images_per_second < 1e6
    assert 1 < cost.evaluations_per_second < 1e6
    assert 50 * 2**20 < cost.peak_bytes < 8 * 2**30
    assert images_in(cost, 2.0) == int(120 * cost.images_per_second)


def test_what_makes_no_network_or_no_device_is_said():
    with pytest.raises(ValueError, match="do not fit this network"):
        cost_of(replace(TINY, data=DataConfig(image_size=(15, 15))), "cpu")
    with pytest.raises(ValueError, match="device 'nowhere' cannot be used"):
        cost_of(TINY, "nowhere")


def test_the_best_preset_is_the_last_that_sees_enough_images():
    at = {name: Cost(100.0, 100.0, 1) for name in PRESETS}
    worth = PRESETS["overnight"].worth_from
    minutes = worth / 6000
    assert best_preset(at, 0.9 * minutes) == "quick"
    assert best_preset(at, 1.1 * minutes) == "overnight"
    assert best_preset({"quick": at["quick"]}, 1e9) == "quick"
    assert best_preset({"overnight": at["overnight"]}, 1e-9) == "overnight"


def test_the_ladder_rises():
    ladder = [preset.worth_from for preset in PRESETS.values()]
    assert ladder[0] == 0
    assert ladder == sorted(set(ladder))
