"""The gradient of a gather without atomics: a sort of the rows, then a bag for each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Scatter:
    """The corners of a chunk in ascending order of their table row."""

    order: Tensor  # (N * K * 4,), the corners
    source: Tensor  # (N * K * 4,), their query heads
    start: Tensor  # (rows + 1,), where the corners of each row begin

    @classmethod
    def of(cls, corners: Tensor, num_rows: int) -> Scatter:
        """corners: (N, K, 4) rows of a table of `num_rows`."""
        _, order = corners.view(-1).sort(stable=True)
        counts = torch.bincount(corners.view(-1), minlength=num_rows)
        per_head = max(1, corners[:1].numel())
        return cls(order, order.div(per_head, rounding_mode="trunc"), F.pad(counts.cumsum(0), (1, 0)))

    def add(self, table: Tensor, vectors: Tensor, weights: Tensor) -> None:
        """Add to each row of `table` the weighted vectors of its corners; vectors (N, D), weights (N, K, 4)."""
        weights = weights.view(-1).index_select(0, self.order)
        table += F.embedding_bag(
            self.source, vectors, self.start, per_sample_weights=weights, mode="sum", include_last_offset=True
        )
