"""The gradient of a gather without atomics: a sort of the samples, then bags of those that each table row gets."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from litedetr.kernels.cpu.corners import Corners, NearestPixels

ROWS_OF_SHORT = 2**15  # radix sorts of 16 bits take half the time of 32
SAMPLES_PER_ROW = 2  # from so many on, four sums for each row cost less than a sort of four times as many keys


@dataclass(frozen=True)
class Scatter:
    """The samples of a chunk in ascending order of their *cell*, the square between four pixels, by its first corner.

    A row is the corner of C = 4 cells, and so gets C sums over samples that follow each other. If samples are few for
    their rows, each corner is sorted by itself, as nearest pixels are, and C is 1.
    """

    sample: Tensor  # (n,) of N * K
    source: Tensor  # (n,) query heads
    weights: Tensor  # (C, n)
    starts: Tensor  # (C, rows + 1), where the samples of each sum start

    @classmethod
    def of(cls, corners: Corners | NearestPixels, cells: Tensor, num_rows: int) -> Scatter:
        """cells: (4, rows) of one table, see `Levels.cells`; num_rows: of all tables of the chunk."""
        heads, samples, per_sample = corners.rows.shape
        if heads * samples < SAMPLES_PER_ROW * num_rows:
            order, starts = _sorted(corners.rows.view(-1), num_rows)
            sample, weights = order.div(per_sample, rounding_mode="trunc"), corners.weights().view(1, -1)[:, order]
            starts = starts.unsqueeze(0)
        else:
            sample, first = _sorted(corners.rows[..., 0].reshape(-1), num_rows)
            weights = corners.planes(sample)
            starts = _starts(first, cells[:per_sample])
        source = torch.arange(heads, dtype=torch.int32, device=sample.device).repeat_interleave(samples)
        return cls(sample, source.index_select(0, sample), weights, starts)

    def add(self, table: Tensor, vectors: Tensor, weights: list[Tensor]) -> None:
        """Add to each row of `table` (rows, D) the weighted vectors of its samples; vectors (N, V, D), V times (N, K)."""
        num_vectors = len(weights)
        source, starts = self.source, self.starts
        weights = torch.stack([x.view(-1).index_select(0, self.sample) for x in weights], dim=-1)  # (n, V)
        if num_vectors > 1:
            source = torch.stack([source * num_vectors + v for v in range(num_vectors)], dim=-1).view(-1)
            starts = starts * num_vectors
        vectors = vectors.flatten(0, 1)
        for plane, start in zip(self.weights, starts, strict=True):
            plane = (plane.unsqueeze(-1) * weights).view(-1)
            table += F.embedding_bag(
                source, vectors, start, per_sample_weights=plane, mode="sum", include_last_offset=True
            )


def _sorted(rows: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """Order of `rows` (n,), and for each row the first place (num_rows + 1,) that it has in this order."""
    keys = rows.short() if num_rows <= ROWS_OF_SHORT else rows
    _, order = keys.sort(stable=True)
    counts = torch.bincount(rows, minlength=num_rows)
    return order, F.pad(counts.cumsum(0, dtype=torch.int32), (1, 0))


def _starts(first: Tensor, cells: Tensor) -> Tensor:
    """(C, rows + 1) from the first sample (rows + 1,) of every cell; cells (C, rows of one table)."""
    corners, rows = cells.shape
    table = torch.arange(0, len(first) - 1, rows, dtype=torch.int32, device=cells.device)
    starts = first.index_select(0, (cells.unsqueeze(1) + table.unsqueeze(-1)).flatten()).view(corners, -1)
    return torch.cat([starts, first[-1:].expand(corners, 1)], dim=1)
