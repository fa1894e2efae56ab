import math

import pytest
import torch
from torch.testing import assert_close

from exact import GaussianData
from nelbo import X0, NoiseSchedule, ReverseProcess, sample
from nelbo.edits import denoise, image_to_image, inpaint, interpolate, noised, step_of_noise

SCHEDULE = NoiseSchedule.linear(100)


def last(states):
    *_, state = states
    return state.x_t


@pytest.fixture
def reverse(tiny_network):
    return ReverseProcess(tiny_network(), SCHEDULE)


def gaussian(schedule=SCHEDULE):
    return ReverseProcess(GaussianData(schedule).network, schedule, X0(), clip=False)


def test_redrawing_begins_at_its_strength_with_the_image_noised(reverse, images):
    states = list(image_to_image(reverse, images, strength=0.4, steps=10))
    assert states[0].t == max(t for t in range(1, 101, 11) if t <= 40)
    assert states[-1].t == 0
    assert_close(states[0].x_t, noised(reverse, images, states[0].t), rtol=1e-9, atol=1e-9)
    (only, _) = image_to_image(reverse, images, strength=1e-9)
    assert only.t == 1


def test_redrawing_at_full_strength_is_drawing_but_for_what_x_T_still_shows(images):
    reverse = gaussian()
    drawn = last(sample(reverse, (4, 3, 4, 6), sampler="ddim")).double()
    redrawn = last(image_to_image(reverse, images, strength=1.0, sampler="ddim")).double()
    signal = float(SCHEDULE.alphas_bar[-1].sqrt())
    assert 0 < (redrawn - drawn).abs().max() < 3 * signal


@pytest.mark.parametrize("t", [5, 40])
def test_cleaning_in_one_step_is_the_best_estimate(t, images):
    """E[x_0|y] of Gaussian data, m + s²/(s² + σ²) (y − m)."""
    sigma = float(((1 - SCHEDULE.alphas_bar[t]) / SCHEDULE.alphas_bar[t]).sqrt())
    noisy = images + sigma * torch.randn_like(images)
    cleaned = last(denoise(gaussian(), noisy, noise_level=sigma, steps=1))
    assert_close(cleaned.double(), 0.3 + 0.25 / (0.25 + sigma**2) * (noisy - 0.3), rtol=1e-5, atol=1e-5)


def test_cleaning_takes_a_step_for_every_t_unless_told_otherwise(reverse, images):
    level = float((1 / SCHEDULE.snr[30]).sqrt())
    assert [state.t for state in denoise(reverse, images, noise_level=level)] == list(range(30, -1, -1))
    assert [state.t for state in denoise(reverse, images, noise_level=level, steps=2)] == [30, 1, 0]
    assert step_of_noise(SCHEDULE, 1e-9) == 1
    assert step_of_noise(SCHEDULE, 1e9) == 100


class Correlated(torch.nn.Module):
    """E[x_0|x_t] of two pixels with mean m, variance s² and correlation ρ."""

    def __init__(self, schedule, m=0.2, s=0.5, rho=0.9):
        super().__init__()
        self.schedule, self.m = schedule, m
        self.covariance = s**2 * torch.tensor([[1, rho], [rho, 1]], dtype=torch.float64)

    def forward(self, x, clock):
        (t,) = clock.unique().tolist()
        ab = self.schedule.alphas_bar[t + 1]
        gain = (
            ab.sqrt()
            * self.covariance
            @ torch.linalg.inv(ab * self.covariance + (1 - ab) * torch.eye(2, dtype=torch.float64))
        )
        flat = (x.double() - ab.sqrt() * self.m).flatten(1)
        return (self.m + flat @ gain.T).reshape(x.shape).to(x.dtype)


def test_what_is_painted_follows_from_what_is_kept():
    """Given one pixel the other is N(m + ρ (a − m), s² (1 − ρ²)), nearly so for enough resampling."""
    reverse = ReverseProcess(Correlated(SCHEDULE), SCHEDULE, X0(), clip=False)
    kept = torch.full((4000, 1, 1, 2), 0.9)
    painted = {}
    for resamplings in (1, 8):
        x_0 = last(inpaint(reverse, kept, torch.tensor([0, 1]), resamplings=resamplings, steps=50))
        assert (x_0[..., 0] == kept[..., 0]).all()
        painted[resamplings] = x_0[..., 1].mean().item(), x_0[..., 1].std().item()
    expected = 0.2 + 0.9 * (0.9 - 0.2)
    assert painted[8][0] == pytest.approx(expected, abs=0.04)
    assert painted[8][1] == pytest.approx(0.5 * math.sqrt(1 - 0.81), rel=0.15)
    assert abs(painted[1][0] - expected) > 2 * abs(painted[8][0] - expected)


def test_what_is_kept_is_noised_as_it_should_be_on_the_way(reverse, images):
    mask = torch.zeros(4, 6)
    mask[1:3, 2:4] = 1
    states = list(inpaint(reverse, images, mask, steps=6, resamplings=2))
    assert [state.t for state in states] == [100, 80, 60, 41, 21, 1, 0]
    assert_close(last(states)[..., mask == 0], images[..., mask == 0], rtol=0, atol=0)
    assert not torch.isclose(last(states)[..., mask == 1], images[..., mask == 1]).any()
    for state in states[:-1]:
        marginal = reverse.forward_process.q_marginal(images, state.t)
        noise = (state.x_t - marginal.mean) / marginal.log_variance.mul(0.5).exp()
        assert noise[..., mask == 0].std().item() == pytest.approx(1, abs=0.2)


def test_an_edit_is_the_same_in_any_batch(reverse, images):
    mask = torch.arange(6) % 2
    for edit in (
        lambda x, first: image_to_image(reverse, x, strength=0.5, steps=5, first=first),
        lambda x, first: inpaint(reverse, x, mask, steps=5, first=first),
    ):
        whole = last(edit(images, 0))
        parts = torch.cat([last(edit(images[:1], 0)), last(edit(images[1:], 1))])
        assert_close(parts, whole, rtol=1e-12, atol=1e-12)


def test_the_ends_of_an_interpolation_come_back(images):
    """The flow of Gaussian data is invertible; the error of DDIM halves with twice the steps."""
    schedule = NoiseSchedule.linear()
    errors = []
    for steps in (100, 200):
        row = last(interpolate(gaussian(schedule), images[0], images[1], num=5, steps=steps)).double()
        assert row.shape == (5, 3, 4, 6)
        errors.append((row[[0, -1]] - images[:2]).abs().max().item())
        middle = (row[2] - 0.3).norm() / ((images[:2] - 0.3).flatten(1).norm(dim=1).mean())
        assert 0.6 < middle < 1.1  # along the arc, not through the middle of the ball
    assert errors[1] < 0.1
    assert errors[1] < 0.7 * errors[0]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda r, x: image_to_image(r, x, strength=0.0), "strength is 0.0"),
        (lambda r, x: image_to_image(r, x, strength=1.1), "strength is 1.1"),
        (lambda r, x: image_to_image(r, x, strength=0.5, sampler="euler"), "unknown sampler"),
        (lambda r, x: denoise(r, x, noise_level=0.0), "noise_level is 0.0"),
        (lambda r, x: denoise(r, x, noise_level=0.1, path="even"), "give steps alone"),
        (
            lambda r, x: inpaint(r, x, torch.ones(5, 5)),
            r"a mask of \(5, 5\) does not fit images of \(4, 3, 4, 6\)",
        ),
        (lambda r, x: inpaint(r, x, torch.ones(4, 6), resamplings=0), "resamplings is 0"),
        (lambda r, x: interpolate(r, x[0], x[1], num=1), "num is 1"),
        (lambda r, x: interpolate(r, x[0], x[1], num=3, sampler="ancestral"), "leave sampler and eta out"),
    ],
)
def test_what_cannot_be_is_said_at_once(edit, message, reverse, images):
    with pytest.raises(ValueError, match=message):
        edit(reverse, images)
