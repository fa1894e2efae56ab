import pytest
import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D

from nelbo.nn.blocks import AttentionBlock, Downsample, ResnetBlock, Upsample

CLOSE = {"rtol": 0.0, "atol": 1e-10}


def image(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize(
    ("ins", "outs", "groups", "eps"), [(8, 8, 4, 1e-5), (8, 12, 2, 1e-6), (12, 4, 4, 0.1)]
)
def test_resnet_block_equals_diffusers(ins, outs, groups, eps, randomised):
    ours = randomised(ResnetBlock(ins, outs, 20, groups=groups, eps=eps)).double()
    theirs = ResnetBlock2D(
        in_channels=ins, out_channels=outs, temb_channels=20, groups=groups, eps=eps
    ).double()
    theirs.load_state_dict(ours.state_dict())
    x, emb = image(3, ins, 5, 7), image(3, 20)
    torch.testing.assert_close(ours(x, emb), theirs(x, emb), **CLOSE)


@pytest.mark.parametrize(("channels", "heads", "groups"), [(8, 1, 4), (12, 3, 2), (16, 16, 16)])
def test_attention_block_equals_diffusers(channels, heads, groups, randomised):
    ours = randomised(AttentionBlock(channels, heads=heads, groups=groups, eps=1e-5)).double()
    theirs = Attention(
        channels,
        heads=heads,
        dim_head=channels // heads,
        eps=1e-5,
        norm_num_groups=groups,
        residual_connection=True,
        bias=True,
        _from_deprecated_attn_block=True,
    ).double()
    theirs.load_state_dict(
        {name.replace("to_out", "to_out.0"): value for name, value in ours.state_dict().items()}
    )
    x = image(2, channels, 3, 5)
    torch.testing.assert_close(ours(x), theirs(x), **CLOSE)
    assert (ours(x) - x).abs().max() > 0.1  # the residual branch is not idle


@pytest.mark.parametrize("padding", [0, 1])
def test_downsample_equals_diffusers(padding, randomised):
    ours = randomised(Downsample(6, padding=padding)).double()
    theirs = Downsample2D(6, use_conv=True, padding=padding, name="op").double()
    theirs.load_state_dict(ours.state_dict())
    x = image(2, 6, 8, 4)
    assert ours(x).shape == (2, 6, 4, 2)
    torch.testing.assert_close(ours(x), theirs(x), **CLOSE)


def test_upsample_equals_diffusers(randomised):
    ours = randomised(Upsample(6)).double()
    theirs = Upsample2D(6, use_conv=True).double()
    theirs.load_state_dict(ours.state_dict())
    x = image(2, 6, 3, 5)
    assert ours(x).shape == (2, 6, 6, 10)
    torch.testing.assert_close(ours(x), theirs(x), **CLOSE)


def test_residual_blocks_start_as_the_identity():
    x, emb = image(2, 8, 4, 4).float(), image(2, 20).float()
    assert torch.equal(ResnetBlock(8, 8, 20, groups=4)(x, emb), x)
    assert torch.equal(AttentionBlock(8, groups=4)(x), x)
    widening = ResnetBlock(8, 12, 20, groups=4)
    assert torch.equal(widening(x, emb), widening.conv_shortcut(x))


def test_dropout_acts_in_training_only(randomised):
    block = randomised(ResnetBlock(8, 8, 20, groups=4, dropout=0.5))
    x, emb = image(2, 8, 4, 4).float(), image(2, 20).float()
    assert not torch.equal(block(x, emb), block(x, emb))
    block.eval()
    assert torch.equal(block(x, emb), block(x, emb))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="8 channels do not divide into 3 attention heads"):
        AttentionBlock(8, heads=3, groups=4)
    with pytest.raises(ValueError, match="downsample padding 2 is unknown"):
        Downsample(8, padding=2)
