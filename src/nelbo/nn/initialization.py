"""How the layers start: Ho's choice (the code of Ho et al. 2020, `nn.py`)."""

from typing import TypeVar

from torch import nn

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


def xavier(layer: Layer) -> Layer:
    """Draw the weight Xavier-uniform and zero the bias, in place; returns the layer."""
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def zero(layer: Layer) -> Layer:
    """Zero weight and bias, in place, so that a residual block starts as the identity; returns the layer."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
