"""Estimates as JSON."""

import json
import math

import numpy as np
import pytest

from nelbo import NoiseSchedule, ReverseProcess
from nelbo.evaluation.likelihood import estimate_likelihood
from nelbo.evaluation.record import record, without_nan


def estimate(tiny_network, num):
    images = np.random.default_rng(0).integers(0, 256, (num, 3, 4, 4), dtype=np.uint8)
    reverse = ReverseProcess(tiny_network(), NoiseSchedule.linear(20, 1e-3, 0.6)).eval()
    return estimate_likelihood(reverse, images, evaluations_per_image=8)


def test_everything_but_the_draws_is_there(tiny_network):
    got = estimate(tiny_network, 5)
    written = json.loads(json.dumps(record(got), allow_nan=False))
    steps = written.pop("steps")
    assert written == {
        "bits_per_dim": got.total.value,
        "standard_error": got.total.population_error,
        "sampling_error": got.total.sampling_error,
        "half_width": got.half_width,
        "population_half_width": got.population_half_width,
        "prior": got.prior.value,
        "transitions": got.transitions.value,
        "reconstruction": got.reconstruction.value,
        "errors": {
            "prior": {"sampling_error": 0.0, "standard_error": got.prior.population_error},
            "transitions": {
                "sampling_error": got.transitions.sampling_error,
                "standard_error": got.transitions.population_error,
            },
            "reconstruction": {
                "sampling_error": got.reconstruction.sampling_error,
                "standard_error": got.reconstruction.population_error,
            },
        },
        "num_images": 5,
        "num_rounds": 2,
        "network_evaluations": got.network_evaluations,
        "pilot_evaluations": 200,
    }
    assert [step["first"] for step in steps] == [step.first for step in got.steps]
    assert set(steps[0]) == {
        "first", "last", "bits_per_dim", "sampling_error", "standard_error", "draws",
    }  # fmt: skip
    assert steps[-1]["bits_per_dim"] == got.steps[-1].bits_per_dim
    assert steps[-1]["last"] == 20


def test_of_one_image_what_cannot_be_known_is_null(tiny_network):
    got = record(estimate(tiny_network, 1))
    json.dumps(got, allow_nan=False)
    assert got["standard_error"] is got["population_half_width"] is None
    assert all(part["standard_error"] is None for part in got["errors"].values())
    assert all(step["standard_error"] is None for step in got["steps"])
    assert got["sampling_error"] > 0


def test_without_nan_goes_all_the_way_down():
    values = {"a": math.nan, "b": [1, (math.nan, {"c": math.nan, "d": "nan"})], "e": 0.5, "f": None}
    assert without_nan(values) == {"a": None, "b": [1, [None, {"c": None, "d": "nan"}]], "e": 0.5, "f": None}
    assert math.isnan(values["a"])
    with pytest.raises(ValueError, match="not JSON compliant"):
        json.dumps(values, allow_nan=False)
