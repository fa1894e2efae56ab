import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.testing import assert_close

from nelbo.nn.fast import GroupNorm, attention


@pytest.mark.parametrize("side", [4, 40])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_normalisation_is_torchs_own_forward_and_backward_in_the_same_layout(side, layout):
    own, torchs = GroupNorm(4, 12).double(), nn.GroupNorm(4, 12).double()
    for layer in (own, torchs):
        layer.weight.data = torch.linspace(0.5, 2, 12).double()
        layer.bias.data = torch.linspace(-1, 1, 12).double()
    x = torch.randn(3, 12, side, side).double().to(memory_format=layout)
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    out, expected = own(mine), torchs(theirs)
    assert_close(out, expected, rtol=1e-10, atol=1e-10)
    assert out.is_contiguous(memory_format=layout)
    slope = torch.randn_like(out)
    out.backward(slope)
    expected.backward(slope)
    assert_close(mine.grad, theirs.grad, rtol=1e-9, atol=1e-9)
    assert_close(own.weight.grad, torchs.weight.grad, rtol=1e-9, atol=1e-9)
    assert_close(own.bias.grad, torchs.bias.grad, rtol=1e-9, atol=1e-9)


def test_small_channels_last_grids_take_the_other_layout(monkeypatch):
    seen = []
    monkeypatch.setattr(F, "group_norm", lambda x, *_: seen.append(x.is_contiguous()) or x)
    for side, layout in ((4, torch.channels_last), (40, torch.channels_last), (4, torch.contiguous_format)):
        GroupNorm(4, 12)(torch.randn(2, 12, side, side).to(memory_format=layout))
    assert seen == [True, False, True]


def test_attention_in_bfloat16_is_the_fused_one_to_its_precision():
    q, k, v = torch.randn(3, 2, 3, 16, 8)
    exact = F.scaled_dot_product_attention(q, k, v)
    assert torch.equal(attention(q, k, v), exact)
    found = attention(*(x.bfloat16() for x in (q, k, v)))
    assert found.dtype == torch.bfloat16
    assert float((found.float() - exact).norm() / exact.norm()) < 0.01
