import pytest
import torch
from torch.testing import assert_close

from nelbo.training.muon import Muon, orthogonalized


@pytest.mark.parametrize("shape", [(8, 8), (16, 40), (40, 16)])
def test_all_directions_get_about_the_same_weight(shape):
    matrix = torch.randn(shape) * torch.logspace(0, -1.5, shape[1])
    values = torch.linalg.svdvals(orthogonalized([matrix])[0])
    assert values.min() > 0.3
    assert values.max() < 1.3
    u, _, vh = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    same, zero = orthogonalized([u @ vh, torch.zeros(shape)])
    assert torch.nn.functional.cosine_similarity((u @ vh).flatten(), same.flatten(), dim=0) > 0.999
    assert not zero.any()


def test_a_matrix_comes_out_the_same_in_any_company():
    matrices = [torch.randn(shape, dtype=torch.float64) for shape in ((8, 12), (12, 8), (8, 30), (5, 5))]
    together = orthogonalized(matrices)
    for matrix, one in zip(matrices, together):
        assert one.shape == matrix.shape
        assert_close(one, orthogonalized([matrix])[0], rtol=1e-9, atol=1e-12)


def test_the_iteration_is_the_published_one():
    """X ← a X + b XXᵀX + c (XXᵀ)²X, from X of norm 1."""
    matrix = torch.randn(6, 10, dtype=torch.float64)
    x = matrix / (matrix.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x - 4.7750 * gram @ x + 2.0315 * gram @ gram @ x
    assert_close(orthogonalized([matrix])[0], x, rtol=1e-9, atol=1e-12)


def test_torchs_own_muon_takes_the_same_steps_on_matrices():
    ours, theirs = (torch.nn.Parameter(torch.ones(24, 12)) for _ in range(2))
    one = Muon([ours], lr=0.02, momentum=0.9)
    other = torch.optim.Muon([theirs], lr=0.02, momentum=0.9, weight_decay=0.0)
    for _ in range(5):
        gradient = torch.randn(24, 12)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        one.step()
        other.step()
    assert_close(ours - 1, theirs - 1, rtol=0.05, atol=2e-3)  # theirs iterates in bfloat16


def test_a_kernel_is_a_matrix_whatever_its_memory_format():
    start, gradient = torch.randn(6, 4, 3, 3), torch.randn(6, 4, 3, 3)
    matrix = torch.nn.Parameter(start.flatten(1))
    kernel = torch.nn.Parameter(start.clone(memory_format=torch.channels_last))
    matrix.grad, kernel.grad = gradient.flatten(1), gradient.clone(memory_format=torch.channels_last)
    for parameter in (matrix, kernel):
        Muon([parameter]).step()
    assert_close(kernel.flatten(1), matrix)


def test_it_descends():
    target = torch.randn(10, 5)
    weight = torch.nn.Parameter(torch.zeros(10, 5))
    optimizer = Muon([weight], lr=0.05)
    for _ in range(200):
        weight.grad = weight.detach() - target
        optimizer.step()
    assert (weight.detach() - target).norm() < 0.2 * target.norm()
