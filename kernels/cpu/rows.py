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

# Images, queries, heads, an index into (B, Q, M, ...): all of some images, all queries of some heads of one image, or
# some queries of one head. So a chunk's tables are few, and in the cache while it reads them and adds to them.
Chunk = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Rows:
    """The inputs in full precision: bags exist in no other."""

    query: Tensor | None  # (B, Q, M, D)
    key: Tensor | None  # (B, M, rows, D), as tables; None if the values are the keys
    value: Tensor  # (B, M, rows, D), as tables
    logits: Tensor | None  # (B, Q, M, K)
    reference: Tensor  # (B, Q, L, 2 | 4)
    offsets: Tensor  # (B, Q, M, L, P, 2)
    grid: Grid  # from locations to rows of the tables

    @classmethod
    def of(cls, inputs: Inputs) -> Rows:
        points, dtype = inputs.points, torch.promote_types(inputs.value.dtype, torch.float32)
        grid = Grid.of(points, inputs.value.shape[2], dtype)  # first, since it refuses what is too large to be copied
        key, value = (None if x is None else bordered(x, points, dtype) for x in (inputs.key, inputs.value))
        query, logits = (None if x is None else x.to(dtype) for x in (inputs.query, inputs.logits))
        reference, offsets = (x.to(dtype) for x in (points.reference, points.offsets))
        return cls(query, key, value, logits, reference, offsets, grid)

    def chunks(self) -> Iterator[Chunk]:
        """All queries of all heads: several small tables at a time, or the queries of a large one in parts."""
        images, queries, heads = self.offsets.shape[:3]
        per_query = max(1, self.offsets[:1, :1, :1].numel() // 2)
        most = MOST_ROWS // (2 * CORNERS)  # corners of keys and of values
        samples = min(max(SAMPLES_PER_CHUNK, SAMPLES_PER_ROW * self.grid.rows), most)
        tables = max(1, min(samples // max(1, queries * per_query), MOST_ROWS // self.grid.rows))
        for image in _slices(images, max(1, tables // max(1, heads))):
            for head in _slices(heads, min(tables, heads)):
                for part in _slices(queries, max(1, samples // per_query)):
                    yield image, part, head

    def corners(self, chunk: Chunk) -> Corners | NearestPixels:
        images, _, _ = chunk
        limit = self.grid.limit[images] if len(self.grid.limit) > 1 else self.grid.limit
        return corners_of(*self.points(chunk), self.grid, limit, images.stop - images.start)

    def points(self, chunk: Chunk) -> tuple[Tensor, Tensor]:
        """Reference (n, L, 2 | 4) and offsets (n, h, L, P, 2) of the chunk's h heads."""
        return self.reference[chunk[:2]].flatten(0, 1), self.offsets[chunk].flatten(0, 1)

    def scaled_query(self, chunk: Chunk) -> Tensor:
        """q / sqrt(D) as (N, D)."""
        query = self.query[chunk]
        return query.flatten(0, 2) * query.shape[-1] ** -0.5


def _slices(length: int, step: int) -> list[slice]:
    return [slice(first, min(first + step, length)) for first in range(0, length, step)]


def tables_of(tables: Tensor, chunk: Chunk) -> Tensor:
    """The tables (B, M, rows, D) of a chunk as one (rows, D), a view."""
    images, _, heads = chunk
    return tables[images, heads].flatten(0, 2)
