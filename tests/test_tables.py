import numpy as np
import pytest
import torch
from torch.testing import assert_close

from nelbo import ForwardProcess, NoiseSchedule, ReverseProcess, bound_term
from nelbo.tables import check_timestep, gather


def test_the_coefficient_is_cast_last():
    """In bfloat16, ᾱ_1 is 1 and 1 − ᾱ_1 would be 0; picked in float64 it keeps its digits."""
    schedule = NoiseSchedule.linear()
    like = torch.zeros(2, 3, 4, 4, dtype=torch.bfloat16)
    picked = gather(1 - schedule.alphas_bar, torch.tensor([1, 2]), like)
    assert picked.dtype == torch.float32
    assert_close(picked.flatten().double(), (1 - schedule.alphas_bar)[1:3], rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_first_ten_steps_are_noised_whatever_the_dtype_of_the_images(dtype):
    forward = ForwardProcess(NoiseSchedule.linear())
    x_0 = torch.full((10, 1, 2, 2), 0.5, dtype=dtype)
    t = torch.arange(1, 11)
    q = forward.q_marginal(x_0, t)
    expected = forward.schedule.one_minus_alphas_bar[1:11]
    assert_close(q.log_variance.exp().flatten().double(), expected, rtol=1e-6, atol=0)
    assert q.sample().dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_an_int_t_noises_half_precision_images_in_float32_as_a_tensor_t_does(dtype):
    forward = ForwardProcess(NoiseSchedule.linear())
    x, many = torch.randn(3, 1, 2, 2).to(dtype), torch.full((3,), 7)
    calls = {"q_transition": (x,), "q_marginal": (x,), "q_posterior": (x, x)}
    for name, arguments in calls.items():
        one, same = (getattr(forward, name)(*arguments, t) for t in (7, many))
        assert one.mean.dtype == same.mean.dtype == one.log_variance.dtype == torch.float32
        assert_close(one.mean, same.mean, rtol=0, atol=0)


def test_shapes():
    table = torch.arange(5, dtype=torch.float64)
    for t in (3, np.int64(3), torch.tensor(3), torch.tensor([3])):
        assert gather(table, t, torch.zeros(2, 3, 4)).tolist() == [[[3]]]
    assert gather(table, torch.tensor([1, 2]), torch.zeros(2, 3, 4, 4)).shape == (2, 1, 1, 1)
    assert gather(table, torch.tensor([1, 2]), torch.zeros(2)).tolist() == [1, 2]
    assert gather(torch.arange(5), torch.tensor([1, 2]), torch.zeros(2)).dtype == torch.int64


@pytest.mark.parametrize("t", [0, -1, 11, torch.tensor([1, 0]), torch.tensor([11, 3])])
def test_a_step_outside_1_to_T_is_named(t):
    with pytest.raises(ValueError, match=r"t = (0|-1|11) is outside 1\.\.10"):
        check_timestep(t, 10)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_short_integers_are_indices_and_no_masks(dtype):
    table = torch.arange(200, dtype=torch.float64)
    t = torch.tensor([1, 0, 100]).to(dtype)
    assert gather(table, t, torch.zeros(3)).tolist() == [1, 0, 100]


@pytest.mark.parametrize(
    ("t", "message"),
    [
        (
            torch.tensor([[1], [2]]),
            r"torch.int64 tensor of shape \(2, 1\); give an int, or an integer tensor",
        ),
        (torch.tensor([1.0, 2.0]), r"torch.float32 tensor of shape \(2,\)"),
        (torch.tensor([True, False]), "torch.bool tensor"),
        (2.0, "t is 2.0, a float; give a whole number"),
        (True, "t is True, a bool"),
        ([1, 2], r"t is \[1, 2\], a list"),
        (None, "t is None"),
    ],
    ids=str,
)
def test_what_is_no_step_is_named(t, message):
    with pytest.raises(ValueError, match=message):
        check_timestep(t, 10)


def test_as_many_steps_as_images_or_one(images):
    reverse, t = ReverseProcess(lambda x, clock: x, NoiseSchedule.linear()), torch.tensor([5, 6])
    for call in (reverse.predict, reverse.forward_process.q_marginal, reverse.forward_process.q_transition):
        with pytest.raises(ValueError, match="t has 2 steps for 4 images; give one for each, or one for all"):
            call(images, t)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_one_step_for_every_image_can_be_given_in_any_way(guidance, tiny_network, images):
    reverse = ReverseProcess(tiny_network(num_classes=2), NoiseSchedule.linear())
    label, eps = torch.tensor([0, 1, 1, -1]), torch.randn_like(images)
    expected = reverse.predict(images, torch.full((4,), 7), label=label, guidance=guidance)
    for t in (7, np.int64(7), torch.tensor(7), torch.tensor([7]), torch.full((4,), 7, dtype=torch.uint8)):
        given = reverse.predict(images, t, label=label, guidance=guidance)
        assert_close(given.x_0, expected.x_0)
        assert_close(bound_term(reverse, images, eps, t), bound_term(reverse, images, eps, 7))
    assert bound_term(reverse, images, eps, torch.tensor(1)).shape == (4,)
