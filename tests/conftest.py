"""What the tests share: float64, seeds, small networks, and Gaussian data for which everything is known."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from nelbo import NoiseSchedule

torch.set_num_threads(1)  # the networks here are tiny: a second thread would only wait


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


class TinyNetwork(nn.Module):
    """A network with random weights, far from any optimum, whose output depends on x_t, on t and on the label."""

    def __init__(self, channels: int = 3, out_channels: int | None = None, num_classes: int = 0) -> None:
        super().__init__()
        self.mix = nn.Conv2d(channels, out_channels or channels, 3, padding=1)
        self.time = nn.Linear(1, out_channels or channels)
        self.label = nn.Embedding(num_classes + 1, out_channels or channels) if num_classes else None
        self.double()

    def forward(self, x: Tensor, clock: Tensor, label: Tensor | None = None) -> Tensor:
        assert clock.shape == (len(x),)
        shift = self.time(clock[:, None].to(x) / 100)
        if label is not None:
            shift = shift + self.label(label + 1)
        return torch.tanh(self.mix(x) + shift[:, :, None, None])


@pytest.fixture
def tiny_network() -> Callable[..., TinyNetwork]:
    return TinyNetwork


@pytest.fixture
def images() -> Tensor:
    """Four images on the 256-level grid, black and white among their pixels, float64."""
    levels = torch.randint(0, 256, (4, 3, 4, 6), generator=torch.Generator().manual_seed(1))
    levels[0, 0, 0, :2] = torch.tensor([0, 255])
    return levels.double() / 127.5 - 1


@pytest.fixture(params=["linear", "cosine", "short", "respaced"])
def schedule(request: pytest.FixtureRequest) -> NoiseSchedule:
    return {
        "linear": NoiseSchedule.linear(),
        "cosine": NoiseSchedule.cosine(50),
        "short": NoiseSchedule.from_betas([0.1, 0.4, 0.02, 0.9]),
        "respaced": NoiseSchedule.linear().respaced([1, 10, 100, 500, 1000]),
    }[request.param]
