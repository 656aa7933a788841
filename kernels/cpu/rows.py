"""The inputs with one row a query, and the chunks that they are worked in."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.cpu.corners import Corners
from kernels.cpu.table import Grid, bordered
from kernels.inputs import Inputs

SAMPLES_PER_CHUNK = 1 << 16  # about 8 MB of fp32 samples at D = 32


@dataclass(frozen=True)
class Rows:
    """The inputs with one row a query, in full precision: bags exist in no other.

    query (B * Q, M, D), logits (B * Q, M, K), reference (B * Q, L, 2 | 4), offsets (B * Q, M, L, P, 2); key and value
    as tables (rows, D), key None where values are the keys.
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
        key, value = (None if x is None else bordered(x.to(dtype), points) for x in (inputs.key, inputs.value))
        query, logits = (None if x is None else x.to(dtype).flatten(0, 1) for x in (inputs.query, inputs.logits))
        reference, offsets = (x.to(dtype).flatten(0, 1) for x in (points.reference, points.offsets))
        return cls(query, key, value, logits, reference, offsets, Grid.of(points, inputs.value.shape[2], dtype))

    def chunks(self) -> list[slice]:
        """Slices of the queries that hold about SAMPLES_PER_CHUNK samples each."""
        per_query = max(1, self.offsets[:1].numel() // 2)
        step = max(1, SAMPLES_PER_CHUNK // per_query)
        return [slice(i, min(i + step, len(self.offsets))) for i in range(0, len(self.offsets), step)]

    def corners(self, chunk: slice) -> Corners:
        return Corners.of(self.reference[chunk], self.offsets[chunk], self.grid, chunk)

    def scaled_query(self, chunk: slice) -> Tensor:
        """q / sqrt(D) as (N, 1, D)."""
        query = self.query[chunk]
        return query.reshape(-1, 1, query.shape[-1]) * query.shape[-1] ** -0.5
