import pytest
import torch
from torch.testing import assert_close

from nelbo import ForwardProcess, NoiseSchedule
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


def test_shapes():
    table = torch.arange(5, dtype=torch.float64)
    assert gather(table, 3, torch.zeros(2, 3)).shape == ()
    assert gather(table, torch.tensor([1, 2]), torch.zeros(2, 3, 4, 4)).shape == (2, 1, 1, 1)
    assert gather(table, torch.tensor([1, 2]), torch.zeros(2)).tolist() == [1, 2]
    assert gather(torch.arange(5), torch.tensor([1, 2]), torch.zeros(2)).dtype == torch.int64


@pytest.mark.parametrize("t", [0, -1, 11, torch.tensor([1, 0]), torch.tensor([11, 3])])
def test_a_step_outside_1_to_T_is_named(t):
    with pytest.raises(ValueError, match=r"t = (0|-1|11) is outside 1\.\.10"):
        check_timestep(t, 10)
