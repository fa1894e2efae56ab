import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nelbo.nn import EMA, UNet


class Tiny(nn.Module):
    def __init__(self, value: float = 0.0, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((3,), value, dtype=dtype))
        self.register_buffer("running", torch.full((2,), value))
        self.register_buffer("count", torch.tensor(0))


def fill(module: nn.Module, value: float) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(value)


@given(st.integers(1, 10_000), st.integers(1, 10**8), st.floats(1.0, 1e7), st.floats(1e-3, 1.0))
def test_decay_is_the_closed_form(num_images, images_seen, half_life, ratio):
    ema = EMA(Tiny(), half_life_images=half_life, warmup_ratio=ratio)
    expected = math.exp(-math.log(2) * num_images / min(half_life, ratio * images_seen))
    assert ema.decay(num_images, images_seen) == pytest.approx(expected, rel=1e-9, abs=1e-300)


def test_decay_by_hand():
    ema = EMA(Tiny(), half_life_images=1000.0, warmup_ratio=0.05)
    assert ema.decay(1000, 10**9) == 0.5
    assert ema.decay(50, 1000) == 0.5  # the half-life is 5 % of 1000 while that is below 1000
    assert ema.decay(1, 0) == 0.0
    assert EMA(Tiny(), half_life_images=1000, warmup_ratio=None).decay(2000, 1) == 0.25


def test_update_is_the_weighted_mean():
    module = Tiny(1.0)
    ema = EMA(module, half_life_images=64, warmup_ratio=None)
    fill(module, 5.0)
    ema.update(64, 64)
    torch.testing.assert_close(ema.state_dict()["weight"], torch.full((3,), 3.0))
    ema.update(128, 192)
    torch.testing.assert_close(ema.state_dict()["weight"], torch.full((3,), 4.5))
    assert torch.equal(module.weight.detach(), torch.full((3,), 5.0))


def test_initial_weights_hold_no_noticeable_share_after_10_000_steps():
    """Weights 1 at the start and 0 ever after: the average is the initial weights' share."""
    batch, steps = 128, 10_000
    shares = {}
    for ratio in (0.05, None):
        module = Tiny(1.0)
        ema = EMA(module, half_life_images=math.log(0.5) / math.log(0.9999) * batch, warmup_ratio=ratio)
        fill(module, 0.0)
        for step in range(1, steps + 1):
            ema.update(batch, step * batch)
        shares[ratio] = ema.state_dict()["weight"].max().item()
    assert shares[None] == pytest.approx(0.9999**steps, rel=1e-2)  # 0.37: what the warm-up is for
    assert shares[0.05] < 1e-12


def test_buffers_are_copied_not_averaged():
    module = Tiny(0.0)
    ema = EMA(module, half_life_images=1e9, warmup_ratio=None)
    module.running.fill_(7.0)
    module.count.fill_(3)
    assert torch.equal(ema.state_dict()["running"], torch.zeros(2))  # a copy, not the module's own tensor
    ema.update(1, 1)
    assert torch.equal(ema.state_dict()["running"], torch.full((2,), 7.0))
    assert ema.state_dict()["count"].item() == 3
    assert ema.state_dict()["count"].dtype == torch.int64


def test_low_precision_weights_are_averaged_in_float32():
    module = Tiny(1.0, torch.bfloat16)
    ema = EMA(module, half_life_images=1000, warmup_ratio=None)
    fill(module, 2.0)
    for step in range(1000):
        ema.update(1, step)
    average = ema.state_dict()["weight"]
    assert average.dtype == torch.float32
    torch.testing.assert_close(average, torch.full((3,), 1.5), rtol=0, atol=1e-4)  # in bfloat16: still 1.0
    assert EMA(Tiny(1.0, torch.float64)).state_dict()["weight"].dtype == torch.float64


def small_unet(seed: int) -> UNet:
    torch.manual_seed(seed)
    return UNet(1, base_width=4, multipliers=(1, 2), blocks_per_level=1, groups=2)


def test_loads_into_a_fresh_module(randomised):
    network = small_unet(0)
    ema = EMA(network, half_life_images=10)
    randomised(network)
    ema.update(10, 100)
    state = ema.state_dict()
    assert list(state) != []
    assert state.keys() == network.state_dict().keys()
    assert not any(value.requires_grad for value in state.values())
    fresh, copied = small_unet(1), small_unet(2)
    fresh.load_state_dict(state, strict=True)
    ema.copy_to(copied)
    with ema.swapped_in() as averaged:
        assert averaged is network
        x, clock = torch.randn(2, 1, 8, 8), torch.tensor([0, 5])
        expected = network(x, clock)
    torch.testing.assert_close(fresh(x, clock), expected)
    torch.testing.assert_close(copied(x, clock), expected)
    assert not torch.allclose(network(x, clock), expected)


def test_state_round_trip_continues_identically(randomised):
    network = small_unet(0)
    ema = EMA(network, half_life_images=100)
    randomised(network, 1)
    ema.update(10, 100)
    saved = {name: value.clone() for name, value in ema.state_dict().items()}
    restored = EMA(network, half_life_images=100)
    restored.load_state_dict(saved)
    randomised(network, 2)
    ema.update(10, 110)
    restored.update(10, 110)
    for name, value in ema.state_dict().items():
        assert torch.equal(value, restored.state_dict()[name])
    assert not torch.equal(saved["conv_out.weight"], ema.state_dict()["conv_out.weight"])  # loaded by copy


def test_swapped_in_restores_after_an_error_too():
    module, other = Tiny(1.0), Tiny(9.0)
    ema = EMA(module)
    fill(module, 2.0)
    module.running.fill_(4.0)

    def sample() -> None:
        with ema.swapped_in():
            assert torch.equal(module.weight.detach(), torch.ones(3))
            assert torch.equal(module.running, torch.ones(2))
            raise KeyError

    with pytest.raises(KeyError):
        sample()
    assert torch.equal(module.weight.detach(), torch.full((3,), 2.0))
    assert torch.equal(module.running, torch.full((2,), 4.0))
    with ema.swapped_in(other):
        assert torch.equal(other.weight.detach(), torch.ones(3))
        ema.update(1, 1)  # the averaged module holds its own weights: allowed
    assert torch.equal(other.weight.detach(), torch.full((3,), 9.0))


def test_no_update_while_the_average_is_swapped_in():
    ema = EMA(Tiny(1.0))
    with ema.swapped_in():
        with pytest.raises(RuntimeError, match="leave `swapped_in`"):
            ema.update(1, 1)
        with pytest.raises(RuntimeError, match="swapped in already"), ema.swapped_in():
            pass
    ema.update(1, 1)


def test_weights_replaced_by_assignment_are_still_followed():
    module = Tiny(0.0)
    ema = EMA(module, half_life_images=1, warmup_ratio=None)
    ema.update(1, 1)
    module.load_state_dict({**module.state_dict(), "weight": torch.full((3,), 4.0)}, assign=True)
    ema.update(1, 1)
    torch.testing.assert_close(ema.state_dict()["weight"], torch.full((3,), 2.0))


def test_what_does_not_fit_is_refused():
    ema = EMA(Tiny(1.0))
    state = ema.state_dict()
    with pytest.raises(ValueError, match="missing \\['count'\\]"):
        ema.load_state_dict({name: value for name, value in state.items() if name != "count"})
    with pytest.raises(ValueError, match="unknown \\['bias'\\]"):
        ema.load_state_dict({**state, "bias": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"weight has shape \(1,\) where \(3,\) is needed"):
        ema.load_state_dict({**state, "weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="names do not match"):
        ema.copy_to(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="half_life_images=0 "):
        EMA(Tiny(), half_life_images=0)
    with pytest.raises(ValueError, match="warmup_ratio=-1"):
        EMA(Tiny(), warmup_ratio=-1)
