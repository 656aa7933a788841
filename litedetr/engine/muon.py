"""Muon: momentum, made orthogonal, for the weight matrices of hidden layers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

# Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024: momentum, and the polynomial
# a x + b x^3 + c x^5 that, taken NUM_ITERATIONS times, moves singular values between 0 and 1 close to 1.
MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NUM_ITERATIONS = 5
# The usual root mean square of an update of AdamW (Liu et al., arXiv 2502.16982, section 2.2).
ADAMW_RMS = 0.2

LEAST_SIDE = 16  # smaller matrices have too few singular values to be worth it
IMAGE_CHANNELS = 3  # inputs of a stem, which is no hidden layer
# Layers that end in something else than features, by the last part of their names.
OUTPUTS = ("sampling_offsets", "classes")


def hidden_matrices(model: nn.Module) -> set[nn.Parameter]:
    """The weights that Muon is for: of linear layers and convolutions between features and features."""
    return {layer.weight for name, layer in model.named_modules() if _has_hidden_matrix(name, layer)}


def _has_hidden_matrix(name: str, layer: nn.Module) -> bool:
    """Not embeddings, which are no layers' weights, nor convolutions by groups, whose weights are many small ones."""
    if isinstance(layer, nn.Conv2d):
        mixes_features = layer.groups == 1 and layer.in_channels > IMAGE_CHANNELS
    else:
        mixes_features = isinstance(layer, nn.Linear)
    return mixes_features and not name.endswith(OUTPUTS) and min(layer.weight.flatten(1).shape) >= LEAST_SIDE


class Muon(Optimizer):
    """Steps of one size in every direction that the momentum of a matrix has (Jordan et al., 2024).

    The update of a matrix W (N, M), a convolution's flattened to that, is

        U = lerp(gradient, momentum, MOMENTUM)                                       (Nesterov's)
        W <- (1 - rate * decay) W - rate * ADAMW_RMS * sqrt(max(N, M)) * orthogonalised(U)

    (Liu et al., arXiv 2502.16982, eq. 4). So its root mean square is about that of AdamW at the same rate, whatever
    the gradient's size. The state of a parameter is its `momentum`. Nothing waits for the device.
    """

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        """groups: each with `params` of two or more dimensions, its rate `lr` and its decoupled `weight_decay`."""
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:
        """Update the parameters that have a gradient. closure: none, the gradients are there."""
        if closure is not None:
            raise ValueError("Muon.step: expected no closure")
        for group in self.param_groups:
            matrices = [p for p in group["params"] if p.grad is not None]
            if matrices:
                self._update(matrices, group["lr"], group["weight_decay"])

    def _update(self, matrices: list[Tensor], rate: float, decay: float) -> None:
        directions = self._directions(matrices)
        torch._foreach_mul_(matrices, 1 - rate * decay)
        for same_shape in _by_shape(matrices):
            stacked = torch.stack([directions[i].flatten(1) for i in same_shape])
            size = rate * ADAMW_RMS * max(stacked.shape[1:]) ** 0.5
            for i, update in zip(same_shape, orthogonalised(stacked), strict=True):
                matrices[i].add_(update.reshape(matrices[i].shape), alpha=-size)

    def _directions(self, matrices: list[Tensor]) -> tuple[Tensor, ...]:
        """Nesterov's momentum, whose state follows the gradients."""
        for p in matrices:
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        gradients = [p.grad for p in matrices]
        momenta = [self.state[p]["momentum"] for p in matrices]
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        return torch._foreach_lerp(gradients, momenta, MOMENTUM)


def _by_shape(matrices: list[Tensor]) -> Iterable[list[int]]:
    """Indices of the matrices of each flattened shape."""
    found = defaultdict(list)
    for i, p in enumerate(matrices):
        found[p.flatten(1).shape].append(i)
    return found.values()


def orthogonalised(x: Tensor) -> Tensor:
    """U f(S) V^T for x = U S V^T, where f(s) is about 1: between 0.7 and 1.2, unless s is tiny; 0 for a zero matrix.

    Newton-Schulz iterations, X <- (a I + b G + c G^2) X with G = X X^T (Jordan et al., 2024).

    x: (B, N, M), a batch of matrices. Returns (B, N, M).
    """
    if x.shape[1] > x.shape[2]:  # G is then the smaller one
        return orthogonalised(x.mT).mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-30)
    return iterated_on_gram(x) if 2 * x.shape[1] <= x.shape[2] else iterated(x)


def iterated(x: Tensor) -> Tensor:
    """The iterations as they are defined: 2 N^2 M + N^3 multiply-adds each. x: (B, N, M) of norm 1 at most."""
    for _ in range(NUM_ITERATIONS):
        polynomial = _polynomial(torch.bmm(x, x.mT))
        x = torch.baddbmm(x, polynomial, x, beta=COEFFICIENTS[0])
    return x


def iterated_on_gram(x: Tensor) -> Tensor:
    """The same up to rounding: 4 N^3 multiply-adds for an iteration, and 2 N^2 M in all. Faster where M is large.

    All that the iterations multiply X by are polynomials of the first G, so they commute: with P = a I + b G + c G^2,
    X <- P X makes G <- P G P. Their product Q <- P Q is applied to X once.
    """
    a, gram = COEFFICIENTS[0], torch.bmm(x, x.mT)
    product = None
    for i in range(NUM_ITERATIONS):
        rest = _polynomial(gram)  # P - a I
        if product is None:
            product = rest.clone()
            product.diagonal(dim1=1, dim2=2).add_(a)
        else:
            product = torch.baddbmm(product, rest, product, beta=a)
        if i + 1 < NUM_ITERATIONS:
            half = torch.baddbmm(gram, rest, gram, beta=a)
            gram = torch.baddbmm(half, half, rest, beta=a)
    return torch.bmm(product, x)


def _polynomial(gram: Tensor) -> Tensor:
    """b G + c G^2."""
    _, b, c = COEFFICIENTS
    return torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
