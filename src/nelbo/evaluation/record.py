"""Estimates as plain values that JSON can hold."""

import math
from typing import Any

from nelbo.evaluation.likelihood import Figure, Likelihood


def record(likelihood: Likelihood) -> dict[str, Any]:
    """Everything of an estimate but its draws; an error that cannot be known, as of a single image, is None."""
    parts = {name: getattr(likelihood, name) for name in ("prior", "transitions", "reconstruction")}
    return without_nan(
        {
            "bits_per_dim": likelihood.bits_per_dim,
            "standard_error": likelihood.standard_error,
            "sampling_error": likelihood.total.sampling_error,
            "half_width": likelihood.half_width,
            "population_half_width": likelihood.population_half_width,
            **{name: figure.value for name, figure in parts.items()},
            "errors": {name: _errors(figure) for name, figure in parts.items()},
            "num_images": likelihood.num_images,
            "num_rounds": likelihood.num_rounds,
            "network_evaluations": likelihood.network_evaluations,
            "pilot_evaluations": likelihood.pilot_evaluations,
            "steps": [vars(step) for step in likelihood.steps],
        }
    )


def _errors(figure: Figure) -> dict[str, float]:
    return {"sampling_error": figure.sampling_error, "standard_error": figure.population_error}


def without_nan(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: null instead, all the way down."""
    return {name: _known(value) for name, value in values.items()}


def _known(value: Any) -> Any:
    if isinstance(value, dict):
        return without_nan(value)
    if isinstance(value, list | tuple):
        return [_known(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
