"""Exponential moving average of a model's weights."""

from __future__ import annotations

import copy
from collections import defaultdict

import torch
from torch import Tensor, nn


class ModelAverage:
    """A copy of `model` whose weights follow it slowly; the copy is what is evaluated.

    After n updates the decay is min(decay, (1 + n) / (10 + n)), so that a short run does not average over its
    initial weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, num_updates: int) -> None:
        """Follow `model` after its optimiser step number `num_updates` (0 the first); other buffers are copied."""
        decay = min(self.decay, (1 + num_updates) / (10 + num_updates))
        average, current = list(self.model.parameters()), list(model.parameters())
        torch._foreach_lerp_(average, current, 1 - decay)
        mine, theirs = (_buffers_by_dtype(x) for x in (self.model, model))
        for dtype, buffers in mine.items():
            torch._foreach_copy_(buffers, theirs[dtype])


def _buffers_by_dtype(model: nn.Module) -> dict[torch.dtype, list[Tensor]]:
    """One kernel copies many tensors, but only of one dtype."""
    groups: dict[torch.dtype, list[Tensor]] = defaultdict(list)
    for buffer in model.buffers():
        groups[buffer.dtype].append(buffer)
    return groups
