"""The gradient of a gather without atomics: a sort of the samples, then a bag of those that reach each table row."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from litedetr.kernels.cpu.corners import Corners, NearestPixels

SHORT_ROWS = 2**15  # rows that 16 bits count: a radix sort of them takes half the time of 32
SAMPLES_PER_ROW = 2  # from so many on, three more bags a row take less time than a sort of four times as many keys


@dataclass(frozen=True)
class Scatter:
    """The samples of a chunk in ascending order of their cell (see Levels.cells).

    A row is the corner of four cells, so it gets four bags, C = 4: its samples in each of them, which follow each
    other. Nearest samples have C = 1. So have samples that are few for their rows: n is then N * K * 4, each corner in
    the order of its own row, as bags of no sample would cost more than the longer sort.
    """

    sample: Tensor  # (n,), which of the N * K samples
    source: Tensor  # (n,), its query head
    weights: Tensor  # (C, n), bilinear ones
    starts: Tensor  # (C, rows + 1), where each row's bag starts among the n

    @classmethod
    def of(cls, corners: Corners | NearestPixels, cells: Tensor, num_rows: int) -> Scatter:
        """cells: (4, rows) of one table, from Levels; num_rows: of all tables of the chunk."""
        heads, samples, per_sample = corners.rows.shape
        if heads * samples < SAMPLES_PER_ROW * num_rows:
            order, first = _sorted(corners.rows.view(-1), num_rows)
            sample = order.div(per_sample, rounding_mode="trunc")
            weights, starts = corners.weights().view(-1).index_select(0, order).unsqueeze(0), first.unsqueeze(0)
        else:
            sample, first = _sorted(corners.rows[..., 0].reshape(-1), num_rows)
            weights, starts = corners.planes(sample), _starts(first, cells[:per_sample])
        source = torch.arange(heads, dtype=torch.int32).repeat_interleave(samples).index_select(0, sample)
        return cls(sample, source, weights, starts)

    def add(self, table: Tensor, vectors: Tensor, weights: list[Tensor]) -> None:
        """Add to each row of `table` (rows, D) the weighted vectors of its samples.

        vectors: (N, V, D). weights: (N, K) for each of the V.
        """
        vectors, num_vectors = vectors.flatten(0, 1), len(weights)
        source = torch.stack([self.source * num_vectors + v for v in range(num_vectors)], dim=-1).view(-1)
        weights = [x.view(-1).index_select(0, self.sample) for x in weights]
        product = vectors.new_empty(len(self.sample), num_vectors)
        for plane, start in zip(self.weights, self.starts * num_vectors, strict=True):
            for v, weight in enumerate(weights):  # all at once, in inner loops of V steps, take twice as long
                torch.mul(plane, weight, out=product[:, v])
            # one corner at a time: what it writes is then still in the cache when it is added
            table += F.embedding_bag(
                source, vectors, start, per_sample_weights=product.view(-1), mode="sum", include_last_offset=True
            )


def _sorted(rows: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """The order (n,) of `rows` (n,), and the first place (num_rows + 1,) of each row in it."""
    keys = rows.short() if num_rows <= SHORT_ROWS else rows
    _, order = keys.sort(stable=True)
    counts = torch.bincount(rows, minlength=num_rows)
    return order, F.pad(counts.cumsum(0, dtype=torch.int32), (1, 0))


def _starts(first: Tensor, cells: Tensor) -> Tensor:
    """(C, rows + 1) from the first place (rows + 1,) of each cell; cells: (C, rows of one table)."""
    corners, rows = cells.shape
    tables = torch.arange(0, len(first) - 1, rows, dtype=torch.int32).unsqueeze(-1)
    starts = first.index_select(0, (cells.unsqueeze(1) + tables).flatten()).view(corners, -1)
    return torch.cat([starts, first[-1:].expand(corners, 1)], dim=1)
