"""Attention calls of realistic size, to measure, tune and compile for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from litedetr.kernels.inputs import Inputs, Score
from litedetr.kernels.points import SamplingPoints

Regime = Literal["grid", "random"]
Shapes = tuple[tuple[int, int], ...]

PYRAMID_800x1333 = ((100, 167), (50, 84), (25, 42), (13, 21))  # strides 8 to 64
OFFSET_NOISE = 2.0  # standard deviation in pixels, on top of the initial ring


@dataclass(frozen=True)
class Workload:
    """One call. Its tensors are random; its sizes are those of a detector."""

    score: Score  # where attention weights come from
    dtype: torch.dtype  # of all tensors but the reference
    query_levels: tuple[int, int] | None  # queries are the cells of the levels [first, last), as in an encoder; or None
    num_queries: int = 900  # boxes, as in a decoder, if query_levels is None
    regime: Regime = "grid"  # grid: references are cells in raster order, and neighbours share pixels; random: anywhere
    shapes: Shapes = PYRAMID_800x1333  # (H_l, W_l)
    batch: int = 1  # B
    heads: int = 8  # M
    channels: int = 32  # D
    points: int = 4  # P

    @property
    def query_shapes(self) -> Shapes | None:
        return None if self.query_levels is None else self.shapes[slice(*self.query_levels)]

    @property
    def queries(self) -> int:
        """Q, queries of an image."""
        return self.num_queries if self.query_levels is None else sum(h * w for h, w in self.query_shapes)

    @property
    def tokens(self) -> int:
        """S, tokens of an image."""
        return sum(h * w for h, w in self.shapes)

    def inputs(self, device: torch.device | str, seed: int = 0) -> Inputs:
        """Random tensors, all leaves that want gradients but for the reference."""
        generator = torch.Generator().manual_seed(seed)

        def normal(*size: int) -> Tensor:
            return torch.randn(*size, generator=generator).to(device, self.dtype).requires_grad_()

        query_size = self.batch, self.queries, self.heads
        table_size = self.batch, self.tokens, self.heads, self.channels
        offsets = torch.randn(*query_size, len(self.shapes), self.points, 2, generator=generator)
        offsets = ring(self.heads, self.points) + OFFSET_NOISE * offsets
        points = SamplingPoints(
            self._reference(generator).to(device),
            offsets.to(device, self.dtype).requires_grad_(),
            self.shapes,
            query_shapes=self.query_shapes if self.regime == "grid" else None,
        )
        return Inputs(
            query=None if self.score == "deformable" else normal(*query_size, self.channels),
            key=normal(*table_size) if self.score == "key_aware" else None,
            value=normal(*table_size),
            logits=normal(*query_size, len(self.shapes) * self.points) if self.score == "deformable" else None,
            points=points,
        )

    def _reference(self, generator: torch.Generator) -> Tensor:
        """(B, Q, L, 2 | 4)."""
        if self.query_levels is None:
            boxes = torch.rand(self.batch, self.queries, 1, 4, generator=generator)
            return (boxes * torch.tensor([1, 1, 0.4, 0.4])).repeat(1, 1, len(self.shapes), 1)
        if self.regime == "random":
            centres = torch.rand(self.batch, self.queries, 1, 2, generator=generator)
        else:
            centres = torch.cat([cell_centres(h, w) for h, w in self.query_shapes]).view(1, -1, 1, 2)
        return centres.repeat(self.batch // len(centres), 1, len(self.shapes), 1)


def cell_centres(height: int, width: int) -> Tensor:
    """(H * W, 2), (x, y) relative to the map, in raster order."""
    y, x = ((torch.arange(n) + 0.5) / n for n in (height, width))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1)


def ring(heads: int, points: int) -> Tensor:
    """(M, 1, P, 2), what sampling offsets are initialised to: one direction a head, growing with the point."""
    angle = torch.arange(heads) * (2 * math.pi / heads)
    direction = torch.stack([angle.cos(), angle.sin()], -1)
    direction = direction / direction.abs().amax(-1, keepdim=True)
    return direction.view(heads, 1, 1, 2) * torch.arange(1, points + 1).view(-1, 1)
