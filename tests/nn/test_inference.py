import torch
from torch import nn
from torch.testing import assert_close

from nelbo import NoiseSchedule, ReverseProcess, UNet, V, sample
from nelbo.nn import InBfloat16
from nelbo.training.precision import for_drawing

CPU = torch.device("cpu")


def network(**options):
    torch.manual_seed(0)
    made = UNet(
        base_width=16, multipliers=(1, 2), blocks_per_level=1, attention_levels=(1,), groups=4, **options
    )
    with torch.no_grad():
        for parameter in made.parameters():  # the zeros that a network starts with hide its layers
            parameter.add_(0.05 * torch.randn_like(parameter))
    return made.eval()


def test_it_says_nearly_the_same_in_the_dtype_of_the_images():
    """The output of bfloat16 layers has 8 bits: about 1 % of error."""
    exact = network(num_classes=3)
    x, clock, label = (
        torch.randn(5, 3, 16, 16),
        torch.tensor([0, 1, 10, 500, 999]),
        torch.tensor([-1, 0, 1, 2, 2]),
    )
    before = {name: value.clone() for name, value in exact.state_dict().items()}
    fast = InBfloat16(exact)
    for given in ((x, clock, label), (x, clock)):
        found, expected = fast(*given), exact(*given).detach()
        assert found.dtype == torch.float32
        assert float((found - expected).norm() / expected.norm()) < 0.02
        assert not torch.equal(found, expected)
    for name, value in exact.state_dict().items():
        assert_close(value, before[name], rtol=0, atol=0)
    assert not any(parameter.requires_grad for parameter in fast.parameters())


def test_pictures_hardly_change_and_float32_changes_nothing():
    reverse = ReverseProcess(network(), NoiseSchedule.linear(), V())
    fast = for_drawing(reverse, CPU, "bfloat16")
    assert isinstance(fast.network, InBfloat16)
    assert for_drawing(reverse, CPU, "float32") is reverse
    *_, exact = sample(reverse, (4, 3, 16, 16), steps=10, sampler="ddim")
    *_, found = sample(fast, (4, 3, 16, 16), steps=10, sampler="ddim")
    assert found.x_t.dtype == torch.float32
    levels = 127.5 * (found.x_t - exact.x_t).abs()
    assert 0 < float(levels.mean()) < 3
    assert isinstance(reverse.network, nn.Module)
