import pytest
import torch
from torch import nn


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
