"""The gradient of a gather without atomics: a sort of the rows, then a bag for each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.cpu.corners import Corners


@dataclass(frozen=True)
class Scatter:
    """Corners in ascending order of their table row.

    touched: the rows that occur; start: where each one's run begins; order: the corners; source: their query heads.
    weights: (N, K, 4), bilinear.
    """

    touched: Tensor
    start: Tensor
    order: Tensor
    source: Tensor
    weights: Tensor

    @classmethod
    def of(cls, corners: Corners) -> Scatter:
        ordered, order = corners.rows.view(-1).sort(stable=True)
        first = torch.ones_like(ordered, dtype=torch.bool)
        torch.ne(ordered[1:], ordered[:-1], out=first[1:])
        start = first.nonzero().squeeze(1)
        per_head = corners.rows[:1].numel()
        source = order.div(per_head, rounding_mode="floor")
        return cls(ordered.index_select(0, start), start, order, source, corners.weights())

    def sums(self, vectors: Tensor, coefficients: Tensor) -> Tensor:
        """For each touched row the sum of weight * coefficient * vector; vectors (N, 1, D), coefficients (N, K)."""
        weights = (self.weights * coefficients.unsqueeze(-1)).view(-1).index_select(0, self.order)
        vectors = vectors.squeeze(1)
        return F.embedding_bag(self.source, vectors, self.start, per_sample_weights=weights, mode="sum")

    def add(self, table: Tensor, sums: Tensor) -> None:
        """Add `sums` to the touched rows of `table`."""
        table.index_add_(0, self.touched, sums)
