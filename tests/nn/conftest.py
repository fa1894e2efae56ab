import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn


@pytest.fixture(scope="session")
def diffusers_weights() -> ModuleType:
    """The key map beside this file; in importlib mode, test modules cannot import one another."""
    path = Path(__file__).with_name("diffusers_weights.py")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def randomised():
    """Draw every parameter anew, those that start at zero or one too."""

    def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
                scale = fan_in**-0.5 if parameter.ndim > 1 else 0.3
                one = 1.0 if "norm" in name and name.endswith("weight") else 0.0
                parameter.copy_(one + scale * noise)
        return module

    return randomise
