"""The inputs in full precision, and the chunks that they are worked in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from litedetr.kernels.cpu.corners import Corners, NearestPixels, corners_of
from litedetr.kernels.cpu.table import CORNERS, MOST_ROWS, Grid, bordered
from litedetr.kernels.inputs import Inputs

SAMPLES_PER_CHUNK = 1 << 18  # enough that waking threads takes little time beside the work; up to 0.1 GB
SAMPLES_PER_ROW = 1  # and at least so many for each row of a table, since the backward pass adds to whole tables

Chunk = tuple[slice, slice]  # whole images, or some queries of one: an index into (B, Q, ...)


@dataclass(frozen=True)
class Rows:
    """The inputs in full precision: bags exist in no other."""

    query: Tensor | None  # (B, Q, M, D)
    key: Tensor | None  # (B, rows, D), as a table; None if the values are the keys
    value: Tensor  # (B, rows, D), as a table
    logits: Tensor | None  # (B, Q, M, K)
    reference: Tensor  # (B, Q, L, 2 | 4)
    offsets: Tensor  # (B, Q, M, L, P, 2)
    grid: Grid

    @classmethod
    def of(cls, inputs: Inputs) -> Rows:
        points, dtype = inputs.points, torch.promote_types(inputs.value.dtype, torch.float32)
        grid = Grid.of(points, inputs.value.shape[2], dtype)  # first, since it refuses what is too large to be copied
        key, value = (None if x is None else bordered(x, points, dtype) for x in (inputs.key, inputs.value))
        query, logits = (None if x is None else x.to(dtype) for x in (inputs.query, inputs.logits))
        reference, offsets = (x.to(dtype) for x in (points.reference, points.offsets))
        return cls(query, key, value, logits, reference, offsets, grid)

    def chunks(self) -> Iterator[Chunk]:
        """All queries: several small images at a time, or a large one in parts."""
        images, queries = self.offsets.shape[:2]
        per_query, table_rows = max(1, self.offsets[:1, :1].numel() // 2), self.value.shape[1]
        samples = min(max(SAMPLES_PER_CHUNK, SAMPLES_PER_ROW * table_rows), MOST_ROWS // CORNERS)
        at_once = max(1, min(samples // max(1, queries * per_query), MOST_ROWS // table_rows))
        step = max(1, samples // per_query)
        for image in range(0, images, at_once):
            for first in range(0, queries, step):
                yield slice(image, min(image + at_once, images)), slice(first, min(first + step, queries))

    def corners(self, chunk: Chunk) -> Corners | NearestPixels:
        images, _ = chunk
        limit = self.grid.limit[images] if len(self.grid.limit) > 1 else self.grid.limit
        return corners_of(*self.points(chunk), self.grid, limit, images.stop - images.start)

    def points(self, chunk: Chunk) -> tuple[Tensor, Tensor]:
        """Reference (n, L, 2 | 4) and offsets (n, M, L, P, 2)."""
        return self.reference[chunk].flatten(0, 1), self.offsets[chunk].flatten(0, 1)

    def scaled_query(self, chunk: Chunk) -> Tensor:
        """q / sqrt(D) as (N, D)."""
        query = self.query[chunk]
        return query.flatten(0, 2) * query.shape[-1] ** -0.5


def tables_of(tables: Tensor, chunk: Chunk) -> Tensor:
    """The tables (B, rows, D) of a chunk's images as one (rows, D), a view."""
    return tables[chunk[0]].flatten(0, 1)
