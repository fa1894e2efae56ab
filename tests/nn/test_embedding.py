import pytest
import torch
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from hypothesis import given, settings
from hypothesis import strategies as st

from nelbo.nn.embedding import TimeEmbedding, sinusoidal_embedding


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("shift", [0, 1, 0.5])
@pytest.mark.parametrize("dim", [8, 33, 128])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.float64])
def test_equals_diffusers(flip, shift, dim, dtype):
    clock = torch.tensor([0, 1, 2, 17, 500, 999, 3999]).to(dtype)
    if dtype.is_floating_point:
        clock = clock + 0.25
    expected = Timesteps(dim, flip, shift)(clock)
    actual = sinusoidal_embedding(clock, dim, flip_sin_to_cos=flip, freq_shift=shift)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_defaults_are_those_of_unet2dmodel():
    clock = torch.arange(5)
    actual = sinusoidal_embedding(clock, 16)
    torch.testing.assert_close(actual, Timesteps(16, True, 0)(clock), rtol=0, atol=0)
    assert torch.equal(actual[0], torch.tensor([1.0] * 8 + [0.0] * 8))  # cosines first


@given(st.integers(0, 10_000), st.integers(2, 32).map(lambda half: 2 * half))
@settings(max_examples=30, deadline=None)
def test_each_pair_lies_on_the_unit_circle(clock, dim):
    embedding = sinusoidal_embedding(torch.tensor([clock]), dim)
    cos, sin = embedding.chunk(2, dim=1)
    torch.testing.assert_close(cos**2 + sin**2, torch.ones_like(cos))


def test_float32_even_where_the_clock_is_low_precision():
    assert sinusoidal_embedding(torch.arange(4).to(torch.float16), 8).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        embedding = sinusoidal_embedding(torch.arange(1000), 128)
    torch.testing.assert_close(embedding, sinusoidal_embedding(torch.arange(1000), 128), rtol=0, atol=0)


def test_neighbouring_clocks_stay_apart_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        embedding = sinusoidal_embedding(torch.tensor([998, 999]), 128)
    assert (embedding[0] - embedding[1]).abs().max() > 0.5


@pytest.mark.parametrize(("dim", "shift"), [(1, 0), (2, 1), (3, 1)])
def test_a_length_without_frequencies_is_refused(dim, shift):
    with pytest.raises(ValueError, match=f"length {dim} with freq_shift={shift}"):
        TimeEmbedding(dim, 8, freq_shift=shift)
    TimeEmbedding(2 * (shift + 1), 8, freq_shift=shift)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_layers_equal_diffusers_and_work_in_the_weights_dtype(dtype):
    ours = TimeEmbedding(16, 64, flip_sin_to_cos=False, freq_shift=1).to(dtype)
    theirs = TimestepEmbedding(16, 64).to(dtype)
    theirs.load_state_dict(ours.state_dict())
    clock = torch.tensor([0, 10, 999])
    actual = ours(clock)
    assert actual.dtype == dtype
    expected = theirs(Timesteps(16, False, 1)(clock).to(dtype))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12 if dtype == torch.float64 else 1e-6)
