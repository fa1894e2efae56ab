import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from diffusers import UNet2DModel

from nelbo.interop.diffusers_weights import translate
from nelbo.nn import UNet

SMALL = {"base_width": 8, "multipliers": (1, 2), "blocks_per_level": 1, "groups": 4}


def noise(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(dtype)


def peer(
    channels,
    *,
    widths,
    blocks,
    attention,
    groups,
    head_dim=None,
    num_classes=None,
    ho=False,
    out_channels=None,
):
    """The diffusers model of the given architecture."""
    options = (
        {"downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1, "norm_eps": 1e-6} if ho else {}
    )
    levels = range(len(widths))
    return UNet2DModel(
        in_channels=channels,
        out_channels=out_channels or channels,
        block_out_channels=widths,
        layers_per_block=blocks,
        down_block_types=tuple("AttnDownBlock2D" if i in attention else "DownBlock2D" for i in levels),
        up_block_types=tuple("AttnUpBlock2D" if i in attention else "UpBlock2D" for i in reversed(levels)),
        attention_head_dim=head_dim,
        norm_num_groups=groups,
        num_class_embeds=num_classes,
        **options,
    )


HO = {"downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1, "eps": 1e-6}
# channels, (height, width), options of UNet, options of the peer
CONFIGURATIONS = {
    "as Ho, narrow": (3, (16, 16), {"base_width": 8, "groups": 8}, {"widths": (8, 16, 16, 16), "blocks": 2}),
    "one level": (
        1,
        (5, 7),
        {"multipliers": (1,), "attention_levels": ()},
        {"widths": (8,), "attention": ()},
    ),
    "attention everywhere": (
        2,
        (8, 12),
        {"multipliers": (1, 3, 2), "attention_levels": (0, 1, 2), "blocks_per_level": 1},
        {"widths": (8, 24, 16), "attention": (0, 1, 2), "blocks": 1},
    ),
    "three blocks, not square": (
        4,
        (4, 10),
        {"multipliers": (2, 1), "attention_levels": (0,), "blocks_per_level": 3, "groups": 2},
        {"widths": (16, 8), "attention": (0,), "blocks": 3, "groups": 2},
    ),
    "four heads": (
        3,
        (8, 8),
        {"multipliers": (1, 2, 2), "attention_levels": (1, 2), "heads": 4, "groups": 1},
        {"widths": (8, 16, 16), "attention": (1, 2), "head_dim": 4, "groups": 1},
    ),
    "heads of a fixed width": (
        3,
        (8, 4),
        {"multipliers": (1, 2, 4), "attention_levels": (0, 2), "head_dim": 2, "blocks_per_level": 1},
        {"widths": (8, 16, 32), "attention": (0, 2), "head_dim": 2, "blocks": 1},
    ),
    "converted from Ho's code": (
        3,
        (8, 16),
        {"multipliers": (1, 2), "attention_levels": (1,), **HO},
        {"widths": (8, 16), "attention": (1,), "ho": True},
    ),
    "classes": (
        3,
        (4, 4),
        {"multipliers": (1, 2), "num_classes": 5},
        {"widths": (8, 16), "num_classes": 5},
    ),
    "learned variance": (
        3,
        (4, 4),
        {"multipliers": (1, 2), "learned_variance": True},
        {"widths": (8, 16), "out_channels": 6},
    ),
}


@pytest.mark.parametrize("case", CONFIGURATIONS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_equals_diffusers(case, dtype, tolerance, randomised):
    channels, size, our_options, their_options = CONFIGURATIONS[case]
    ours = UNet(channels, **{"base_width": 8, "groups": 4, **our_options}).to(dtype).eval()
    defaults = {"attention": (1,), "blocks": 2, "groups": our_options.get("groups", 4)}
    theirs = randomised(peer(channels, **{**defaults, **their_options})).to(dtype).eval()
    ours.load_state_dict(translate(theirs.state_dict()), strict=True)
    x, clock = noise(3, channels, *size, dtype=dtype), torch.tensor([0, 17, 999])
    label = torch.tensor([4, 0, 2]) if "num_classes" in our_options else None
    arguments = [] if label is None else [label]
    with torch.no_grad():
        expected = theirs(x, clock, *arguments).sample
        actual = ours(x, clock, *arguments)
    assert expected.abs().max() > 0.1
    assert actual.dtype == dtype
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def test_the_defaults_are_ho_s_cifar_network():
    with torch.device("meta"):
        ours = UNet()
        theirs = peer(3, widths=(128, 256, 256, 256), blocks=2, attention=(1,), groups=32)
    count = sum(parameter.numel() for parameter in ours.parameters())
    assert count == sum(parameter.numel() for parameter in theirs.parameters())
    assert count == 35_746_307  # 35.7 M: Ho et al. 2020, appendix B


def test_output_starts_at_zero_and_every_parameter_gets_a_gradient(randomised):
    network = UNet(3, **SMALL, num_classes=2, learned_variance=True)
    x, clock, label = noise(4, 3, 8, 8), torch.tensor([0, 1, 500, 999]), torch.tensor([-1, 0, 1, 1])
    assert torch.equal(network(x, clock, label), torch.zeros(4, 6, 8, 8))
    randomised(network)
    network(x, clock, label).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        # a softmax does not see what shifts all keys alike
        assert parameter.grad.abs().max() > (0 if name.endswith("to_k.bias") else 1e-3), name


def test_all_layers_but_ho_s_zero_ones_start_random():
    network = UNet(3, **SMALL)
    zero = {
        name.removesuffix(".weight")
        for name, parameter in network.named_parameters()
        if name.endswith("weight") and not parameter.any()
    }
    residual = {name for name, _ in network.named_modules() if name.endswith(("conv2", "to_out"))}
    assert zero == residual | {"conv_out"}


@pytest.mark.parametrize("patch", [2, 4])
def test_patch_is_a_plain_network_on_the_unshuffled_image(patch, randomised):
    folded = randomised(UNet(3, **SMALL, patch=patch))
    plain = UNet(3 * patch**2, **SMALL)
    plain.load_state_dict(folded.state_dict(), strict=True)
    x, clock = noise(2, 3, 8 * patch, 4 * patch), torch.tensor([3, 30])
    actual = folded(x, clock)
    assert actual.shape == x.shape
    expected = F.pixel_shuffle(plain(F.pixel_unshuffle(x, patch), clock), patch)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("patch", [1, 2])
def test_learned_variance_puts_the_mean_first(patch, randomised):
    """The network that has the first half of `conv_out` alone is the network without a variance output."""
    both = randomised(UNet(3, **SMALL, patch=patch, learned_variance=True))
    mean, variance = UNet(3, **SMALL, patch=patch), UNet(3, **SMALL, patch=patch)
    state = both.state_dict()
    half = 3 * patch**2
    for network, rows in ((mean, slice(0, half)), (variance, slice(half, None))):
        network.load_state_dict({k: v[rows] if k.startswith("conv_out") else v for k, v in state.items()})
    x, clock = noise(2, 3, 8, 8), torch.tensor([3, 30])
    output = both(x, clock)
    assert output.shape == (2, 6, 8, 8)
    torch.testing.assert_close(output[:, :3], mean(x, clock))
    torch.testing.assert_close(output[:, 3:], variance(x, clock))
    assert not torch.allclose(output[:, :3], output[:, 3:])


def test_labels(randomised):
    network = randomised(UNet(1, **SMALL, num_classes=3))
    x, clock = noise(1, 1, 4, 4).expand(4, 1, 4, 4), torch.zeros(4, dtype=torch.int64)
    outputs = network(x, clock, torch.tensor([-1, 0, 1, 2]))
    for i in range(4):
        for j in range(i):
            assert not torch.allclose(outputs[i], outputs[j])
    torch.testing.assert_close(network(x, clock), outputs[:1].expand(4, 1, 4, 4))  # no label: no class
    for wrong in (-2, 3):
        with pytest.raises(IndexError):
            network(x, clock, torch.tensor([0, 0, 0, wrong]))
    with pytest.raises(ValueError, match="network without classes"):
        UNet(1, **SMALL)(x, clock, torch.tensor([0, 0, 0, 0]))


def test_the_clock_matters_and_may_be_floating(randomised):
    network = randomised(UNet(1, **SMALL))
    x = noise(1, 1, 4, 4).expand(3, 1, 4, 4)
    whole = network(x, torch.tensor([0, 1, 999]))
    torch.testing.assert_close(whole, network(x, torch.tensor([0.0, 1.0, 999.0], dtype=torch.float64)))
    assert not torch.allclose(whole[0], whole[1])
    between = network(x, torch.tensor([0.5, 1.5, 999.5]))
    assert not torch.allclose(between[0], whole[0])


@pytest.mark.parametrize("patch", [1, 2])
def test_channels_last_gives_the_same_output_in_channels_last(patch, randomised):
    network = randomised(UNet(3, **SMALL, attention_levels=(0, 1), patch=patch))
    x, clock = noise(2, 3, 8, 12), torch.tensor([3, 30])
    expected = network(x, clock)
    layouts = []
    for module in network.modules():
        if type(module).__name__ in ("ResnetBlock", "AttentionBlock", "Downsample", "Upsample"):
            module.register_forward_hook(
                lambda _module, _inputs, out: layouts.append(
                    out.is_contiguous(memory_format=torch.channels_last)
                )
            )
    network.to(memory_format=torch.channels_last)
    torch.testing.assert_close(network(x.to(memory_format=torch.channels_last), clock), expected)
    assert len(layouts) > 10
    assert all(layouts)


@pytest.mark.parametrize("batch", [0, 1, 65])
def test_any_batch_size(batch, randomised):
    network = randomised(UNet(1, **SMALL))
    x, clock = noise(65, 1, 4, 4), torch.arange(65)
    whole = network(x, clock)
    torch.testing.assert_close(network(x[:batch], clock[:batch]), whole[:batch])


def test_autocast_leaves_the_time_embedding_s_sinusoids_alone(randomised):
    network = randomised(UNet(1, **SMALL))
    x = noise(1, 1, 4, 4).expand(2, 1, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        output = network(x, torch.tensor([998, 999]))
    assert not torch.equal(output[0], output[1])
    torch.testing.assert_close(output.float(), network(x, torch.tensor([998, 999])), rtol=0.1, atol=0.1)


def test_a_size_that_does_not_fit_is_named_with_the_nearest_that_do():
    network = UNet(1, base_width=8, multipliers=(1, 1, 1), groups=4, patch=2)
    network.check_size(8, 24)
    with pytest.raises(ValueError, match="divisible by 8") as caught:
        network(noise(1, 1, 30, 64), torch.tensor([0]))
    assert "height 30 and width 64" in str(caught.value)
    assert "Height 30: the nearest that work are 24 and 32" in str(caught.value)
    assert "width 64:" not in str(caught.value)
    with pytest.raises(
        ValueError, match=r"Height 9: the nearest that work are 8 and 16; width 3: .* 8 and 16"
    ):
        network.check_size(9, 3)
    with pytest.raises(ValueError, match="Height 0:"):
        network.check_size(0, 8)
    with pytest.raises(ValueError, match="images of 3 channels given to a network of 1"):
        network(noise(1, 3, 8, 8), torch.tensor([0]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_width": 48, "groups": 32}, "level 0 has 48 channels .* set groups to 24"),
        ({"base_width": 48, "multipliers": (2, 1), "groups": 32}, "level 1 has 48 channels"),
        ({"multipliers": ()}, r"multipliers=\(\)"),
        ({"multipliers": (1, 0)}, r"multipliers=\(1, 0\)"),
        ({"attention_levels": (4,)}, "attention level 4 is unknown: a network of 4 levels"),
        ({"attention_levels": (-1,)}, "attention level -1 is unknown"),
        ({"heads": 3}, "heads=3 does not divide the 256 channels"),
        ({"heads": 0}, "heads=0 is not positive"),
        ({"heads": 2, "head_dim": 8}, "both given"),
        ({"head_dim": 7}, "head_dim=7 does not divide"),
        ({"patch": 3}, r"patch=3 is unknown: choose one of \(1, 2, 4, 8\)"),
        ({"dropout": 1.0}, "dropout=1.0 is not in"),
        ({"blocks_per_level": 0}, "blocks_per_level=0"),
        ({"num_classes": 0}, "num_classes=0"),
        ({"in_channels": 0}, "in_channels=0"),
        ({"out_channels": 5, "learned_variance": True}, "out_channels=5 is odd"),
        ({"downsample_padding": 2}, "downsample padding 2"),
    ],
)
def test_options_that_make_no_network_are_refused(options, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        UNet(**options)


def test_compiles_without_a_graph_break(randomised):
    import jaxtyping

    network = randomised(UNet(3, **SMALL, num_classes=2, patch=2))
    x, clock, label = noise(2, 3, 8, 8), torch.tensor([1, 2]), torch.tensor([-1, 1])
    expected = network(x, clock, label)
    jaxtyping.config.update("jaxtyping_disable", True)  # the checks exist under pytest only
    try:
        compiled = torch.compile(network, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x, clock, label), expected)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
