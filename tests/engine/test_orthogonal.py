"""Against the singular value decomposition in float64, whose singular values the polynomial moves one by one."""

import pytest
import torch
from torch import Tensor

from litedetr.engine.orthogonal import iterated, iterated_on_gram, orthogonalised

SHAPES = [
    (3, 20, 20),
    (2, 20, 24),
    (2, 24, 20),
    (2, 16, 200),
    (1, 200, 16),
    (2, 128, 128),
    (1, 300, 130),
    (1, 130, 300),
]


def moved(s: Tensor) -> Tensor:
    """What five iterations make of singular values of a matrix of norm 1."""
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return s


def by_svd(x: Tensor) -> Tensor:
    u, s, v = torch.linalg.svd(x.double(), full_matrices=False)
    s = moved(s / s.square().sum(-1, keepdim=True).sqrt())
    return u @ torch.diag_embed(s) @ v


@pytest.mark.parametrize("shape", SHAPES)
def test_the_polynomial_moves_each_singular_value(shape: tuple[int, int, int]):
    torch.manual_seed(0)
    x = torch.randn(shape)
    torch.testing.assert_close(orthogonalised(x).double(), by_svd(x), atol=2e-4, rtol=0)


@pytest.mark.parametrize("size", [1e-7, 1.0, 1e12])
def test_singular_values_end_close_to_one_whatever_their_size(size: float):
    torch.manual_seed(0)
    s = torch.linalg.svdvals(orthogonalised(size * torch.randn(2, 32, 100)))
    assert 0.68 < s.min() < s.max() < 1.21


@pytest.mark.parametrize("shape", [(2, 20, 30), (2, 16, 400), (1, 128, 256)])
def test_both_forms_agree(shape: tuple[int, int, int]):
    torch.manual_seed(0)
    x = torch.randn(shape)
    x /= x.norm(dim=(1, 2), keepdim=True)
    torch.testing.assert_close(iterated_on_gram(x), iterated(x), atol=2e-4, rtol=0)
    torch.testing.assert_close(iterated_on_gram(x.double()), iterated(x.double()), atol=1e-11, rtol=0)


def test_nearly_singular_matrices_lose_no_digits_that_show():
    """Squaring them in the Gram matrix hides singular values below 1e-4 of the largest one in its rounding."""
    torch.manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(1, 64, 300), full_matrices=False)
    x = u @ torch.diag(10 ** torch.linspace(0, -7, 64)) @ v
    torch.testing.assert_close(orthogonalised(x).double(), by_svd(x), atol=1e-3, rtol=0)


@pytest.mark.parametrize("size", [1e-15, 1e-25, 1e-40])
@pytest.mark.parametrize("shape", [(1, 20, 24), (1, 16, 200)])
def test_what_is_left_of_a_momentum_dies_out(shape: tuple[int, int, int], size: float):
    """Squares of such numbers are zeros in fp32, and a norm of zero would make infinities of them."""
    found = orthogonalised(torch.full(shape, size))
    assert found.isfinite().all()
    assert found.norm() < 1e-2


@pytest.mark.parametrize("shape", [(2, 20, 20), (2, 20, 50), (2, 50, 20)])
def test_zeros_stay_zeros(shape: tuple[int, int, int]):
    x = torch.zeros(shape)
    x[1] = torch.randn(shape[1:])
    assert torch.equal(orthogonalised(x)[0], x[0])
    assert orthogonalised(x)[1].isfinite().all()
