import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch.testing import assert_close

from nelbo import NoiseSchedule, ReverseProcess, UNet, V
from nelbo.nn import CoarseToFine

OPTIONS = {"blocks_per_level": 1, "attention_levels": (), "groups": 4}


def unet(seed, **options):
    torch.manual_seed(seed)
    network = UNet(3, base_width=8, multipliers=(1, 2), **{**OPTIONS, **options})
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network.double()


@pytest.fixture
def pair():
    network = CoarseToFine(
        unet(0, learned_variance=True, num_classes=2), unet(1, learned_variance=True, num_classes=2),
        pool=4, boundary=70,
    )  # fmt: skip
    return network.double()


@pytest.fixture
def x():
    return torch.randn(6, 3, 16, 24, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


CLOCK = torch.tensor([99, 0, 70, 69, 35, 80])
LABEL = torch.tensor([0, 1, -1, 1, 0, 1])


def test_each_image_goes_to_the_network_of_its_clock(pair, x):
    torch.nn.init.normal_(pair.detail_gain.weight)
    out = pair(x, CLOCK, LABEL)
    is_high = CLOCK >= 70
    assert_close(
        out[~is_high], pair.fine(x[~is_high], CLOCK[~is_high], LABEL[~is_high]), rtol=1e-9, atol=1e-12
    )
    for i in range(6):  # alone as in company
        assert_close(pair(x[[i]], CLOCK[[i]], LABEL[[i]]), out[[i]], rtol=1e-9, atol=1e-12)


def test_the_coarse_network_sees_the_means_and_says_the_same_of_all_their_pixels(pair, x):
    clock = torch.full((6,), 90)
    out = pair(x, clock)  # the gain is zero at first
    means = F.avg_pool2d(x, 4)
    assert_close(out[..., ::4, ::4], pair.coarse(means * 4, clock), rtol=1e-9, atol=1e-12)
    assert_close(F.avg_pool2d(out, 4).repeat_interleave(4, 2).repeat_interleave(4, 3), out)
    rearranged = x.unflatten(2, (4, 4)).flip(3).flatten(2, 3)  # rows within each square
    assert_close(pair(rearranged, clock), out)


def test_the_noise_of_the_means_has_its_old_size():
    eps = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert float((F.avg_pool2d(eps, 4) * 4).std()) == pytest.approx(1, abs=0.01)


def test_the_right_gain_leaves_no_detail_in_the_estimate(pair, x):
    """v = √ᾱ ε − σ x_0: where x̂_0 has no detail, its detail is √ᾱ/σ times that of x_t."""
    schedule, t = NoiseSchedule.cosine(100), 90
    torch.nn.init.zeros_(pair.detail_gain.weight)
    torch.nn.init.constant_(pair.detail_gain.bias, float(schedule.snr[t].sqrt()))
    pair.learned_variance = False
    reverse = ReverseProcess(pair, schedule, V(), clip=False, variance_channels=True)
    with torch.no_grad():
        x_0 = reverse.predict(x, t).x_0
    assert_close(F.avg_pool2d(x_0, 4).repeat_interleave(4, 2).repeat_interleave(4, 3), x_0)
    assert float(x_0.std()) > 0.01


def test_a_gain_is_for_the_mean_alone(pair, x):
    clock = torch.full((6,), 90)
    before = pair(x, clock)
    torch.nn.init.ones_(pair.detail_gain.bias)
    mean, variance = (pair(x, clock) - before).chunk(2, dim=1)
    assert_close(mean, x - F.avg_pool2d(x, 4).repeat_interleave(4, 2).repeat_interleave(4, 3))
    assert (variance == 0).all()


def test_both_learn(pair, x):
    pair(x, CLOCK, LABEL).square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in pair.parameters())


@pytest.mark.parametrize(
    ("size", "message"),
    [((12, 16), "height 12 and width 16 do not fit"), ((16, 20), "height 16 and width 20 do not fit")],
)
def test_sizes_that_do_not_divide_are_refused(pair, size, message):
    pair.check_size(16, 24)
    with pytest.raises(ValueError, match=message):
        pair.check_size(*size)


def test_two_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match="num_classes is 2 in the fine network and None in the coarse one"):
        CoarseToFine(unet(0, num_classes=2), unet(1), pool=4, boundary=70)
