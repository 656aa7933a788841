"""Moves the singular values of matrices close to 1, by matrix products only."""

from __future__ import annotations

import torch
from torch import Tensor

# Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024: the polynomial a s + b s^3 + c s^5
# moves a singular value s between 0 and 1 close to 1 in NUM_ITERATIONS.
A, B, C = 3.4445, -4.7750, 2.0315
NUM_ITERATIONS = 5
LEAST_NORM = 1e-7  # as in their code; below, the result gets smaller, so that a momentum without gradients dies out


def orthogonalised(x: Tensor) -> Tensor:
    """U f(S) V^T for x = U S V^T, with f between 0.68 and 1.21 where s is above 1/500 of the norm of all s, and 0 at 0.

    Newton-Schulz iterations X <- P X with P = A I + B G + C G^2 and G = X X^T (Jordan et al., 2024). The size of x does
    not matter above LEAST_NORM; zeros stay zeros.

    x: (L, N, M), L matrices. Returns (L, N, M).
    """
    if x.shape[1] > x.shape[2]:  # then X^T X is the smaller one
        return orthogonalised(x.mT).mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(LEAST_NORM)
    return iterated_on_gram(x) if x.shape[2] >= 2 * x.shape[1] else iterated(x)


def iterated(x: Tensor) -> Tensor:
    """The iterations as they are defined: 2 N^2 M + N^3 multiply-adds each. x: (L, N, M), N <= M, of norm 1 at most."""
    for _ in range(NUM_ITERATIONS):
        x = torch.bmm(_polynomial(torch.bmm(x, x.mT)), x)
    return x


def iterated_on_gram(x: Tensor) -> Tensor:
    """The same up to rounding: 4 N^3 multiply-adds for an iteration and 2 N^2 M in all. Faster if M is large.

    Each P is a polynomial of the first G, so all of them commute and are symmetric: X <- P X means G <- P G P, and X
    itself is multiplied by the product of all P once, at the end.
    """
    gram = torch.bmm(x, x.mT)
    factor = _polynomial(gram)
    total = factor
    for _ in range(NUM_ITERATIONS - 1):
        gram = torch.bmm(torch.bmm(factor, gram), factor)
        factor = _polynomial(gram)
        total = torch.bmm(factor, total)
    return torch.bmm(total, x)


def _polynomial(gram: Tensor) -> Tensor:
    """P = A I + B G + C G^2."""
    result = torch.baddbmm(gram, gram, gram, beta=B, alpha=C)
    result.diagonal(dim1=1, dim2=2).add_(A)
    return result
