"""The inputs in full precision, and the chunks that they are worked in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.cpu.corners import Corners
from kernels.cpu.table import Grid, bordered
from kernels.inputs import Inputs

SAMPLES_PER_CHUNK = 1 << 18  # enough that waking threads takes little time beside the work; up to 0.1 GB
SAMPLES_PER_ROW = 1  # and at least so many for each row of a table, since the backward pass adds to whole tables

Chunk = tuple[int, slice]  # an image and some of its queries: an index into (B, Q, ...)


@dataclass(frozen=True)
class Rows:
    """The inputs in full precision: bags exist in no other.

    query (B, Q, M, D), logits (B, Q, M, K), reference (B, Q, L, 2 | 4), offsets (B, Q, M, L, P, 2); key and value as
    tables (B, rows, D), key None where values are the keys.
    """

    query: Tensor | None
    key: Tensor | None
    value: Tensor
    logits: Tensor | None
    reference: Tensor
    offsets: Tensor
    grid: Grid

    @classmethod
    def of(cls, inputs: Inputs) -> Rows:
        points, dtype = inputs.points, torch.promote_types(inputs.value.dtype, torch.float32)
        key, value = (None if x is None else bordered(x, points, dtype) for x in (inputs.key, inputs.value))
        query, logits = (None if x is None else x.to(dtype) for x in (inputs.query, inputs.logits))
        reference, offsets = (x.to(dtype) for x in (points.reference, points.offsets))
        return cls(query, key, value, logits, reference, offsets, Grid.of(points, inputs.value.shape[2], dtype))

    def chunks(self) -> Iterator[Chunk]:
        """All queries, in chunks that stay within an image."""
        images, queries = self.offsets.shape[:2]
        per_query = max(1, self.offsets[:1, :1].numel() // 2)
        samples = max(SAMPLES_PER_CHUNK, SAMPLES_PER_ROW * self.value.shape[1])
        step = max(1, samples // per_query)
        for image in range(images):
            for first in range(0, queries, step):
                yield image, slice(first, min(first + step, queries))

    def corners(self, chunk: Chunk) -> Corners:
        limit = self.grid.limit[chunk[0] if len(self.grid.limit) > 1 else 0]
        return Corners.of(self.reference[chunk], self.offsets[chunk], self.grid, limit)

    def scaled_query(self, chunk: Chunk) -> Tensor:
        """q / sqrt(D) as (N, D)."""
        query = self.query[chunk]
        return query.flatten(0, 1) * query.shape[-1] ** -0.5
