"""Muon: momentum, made orthogonal, for the weight matrices of hidden layers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from litedetr.engine.orthogonal import orthogonalised

MOMENTUM = 0.95  # Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024
ADAMW_RMS = 0.2  # usual root mean square of AdamW's updates (Liu et al., arXiv 2502.16982, section 2.2)
LEAST_SIDE = 16  # smaller matrices have too few singular values to be worth it
IMAGE_CHANNELS = 3  # inputs of a stem, which is no hidden layer
# Layers that end in something else than features, by the last part of their names.
OUTPUTS = ("sampling_offsets", "attention_weights", "classes")


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
