"""Values and keys as rows of one table, every level behind a border of zero pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.points import SamplingPoints

MOST_ROWS = 2**31 - 1  # rows are counted in 32 bits, half the traffic of 64


def bordered(table: Tensor, points: SamplingPoints) -> Tensor:
    """(B, S, M, D) -> rows (B * S', M, D): each level behind a zero column and between two zero rows.

    A row's right border is the next row's left one; one more zero token ends the table. Padding is zeroed.
    """
    batch, _, heads, channels = table.shape
    levels = []
    for level, part in enumerate(table.split([h * w for h, w in points.shapes], dim=1)):
        height, width = points.shapes[level]
        image = part.reshape(batch, height, width, heads * channels)
        if points.valid_sizes is not None:
            image = image * _valid(points.valid_sizes[:, level], height, width).to(image.dtype)
        levels.append(F.pad(image, (0, 0, 1, 0, 1, 1)).flatten(1, 2))
    end = table.new_zeros(batch, 1, heads * channels)
    return torch.cat([*levels, end], dim=1).view(-1, channels)


def _valid(sizes: Tensor, height: int, width: int) -> Tensor:
    rows = torch.arange(height) < sizes[:, :1]
    columns = torch.arange(width) < sizes[:, 1:]
    return (rows[:, :, None] & columns[:, None, :]).unsqueeze(-1)


def unbordered(table: Tensor, like: Tensor, points: SamplingPoints) -> Tensor:
    """The gradient of `bordered`: rows (B * S', M, D) -> (B, S, M, D) like the values."""
    batch, _, heads, channels = like.shape
    levels, start = [], 0
    table = table.view(batch, -1, heads * channels)
    for level, (height, width) in enumerate(points.shapes):
        stop = start + (height + 2) * (width + 1)
        image = table[:, start:stop].view(batch, height + 2, width + 1, -1)[:, 1:-1, 1:]
        if points.valid_sizes is not None:
            image = image * _valid(points.valid_sizes[:, level], height, width).to(image.dtype)
        levels.append(image.flatten(1, 2))
        start = stop
    return torch.cat(levels, dim=1) if levels else table.new_empty(batch, 0, heads * channels)


@dataclass(frozen=True)
class Grid:
    """Where the levels lie in the bordered table.

    Every constant is repeated for the P points: inner loops of L * P numbers vectorise, broadcasts over P do not.

    size: (L, P, 2) float (width, height) of the levels. limit: (B or 1, 1, L, P, 2) float, valid (width, height).
    start: (L, P) first token of each level; pitch: (L, P) tokens from one image row to the next.
    steps: (L, P, 4) table rows from a sample's first corner to each of the four. tokens: S'.
    last_first_row: (L, P), the largest row that a first corner may have.
    """

    size: Tensor
    limit: Tensor
    start: Tensor
    pitch: Tensor
    steps: Tensor
    last_first_row: Tensor
    tokens: int
    heads: int
    queries: int

    @classmethod
    def of(cls, points: SamplingPoints, heads: int, dtype: torch.dtype) -> Grid:
        num_points = points.offsets.shape[-2]
        size = torch.tensor([(w, h) for h, w in points.shapes], dtype=dtype)
        limit = size.unsqueeze(0) if points.valid_sizes is None else points.valid_sizes.flip(-1).to(dtype)
        lengths = [(h + 2) * (w + 1) for h, w in points.shapes]
        start = torch.tensor([sum(lengths[:level]) for level in range(len(lengths))], dtype=torch.int32)
        pitch = torch.tensor([w + 1 for _, w in points.shapes], dtype=torch.int32)
        steps = torch.stack([pitch * 0, pitch * 0 + 1, pitch, pitch + 1], dim=-1) * heads
        tokens = sum(lengths) + 1
        rows = len(points.offsets) * tokens * heads
        if rows > MOST_ROWS:
            raise ValueError(f"value: expected at most {MOST_ROWS} rows B * S * M, got {rows}; take smaller batches")

        def for_points(x: Tensor, dim: int) -> Tensor:
            return x.unsqueeze(dim).repeat_interleave(num_points, dim)

        return cls(
            size=for_points(size, 1),
            limit=for_points(limit, 2).unsqueeze(1),
            start=for_points(start, 1),
            pitch=for_points(pitch, 1),
            steps=for_points(steps, 1),
            last_first_row=for_points(rows - 1 - steps.amax(-1), 1),
            tokens=tokens,
            heads=heads,
            queries=points.offsets.shape[1],
        )

    def images(self, rows: slice) -> Tensor:
        """Image index of each query of a chunk."""
        return torch.arange(rows.start, rows.stop, dtype=torch.int32) // max(self.queries, 1)
