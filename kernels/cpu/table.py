"""Values and keys as rows of one table a head, every level inside a border of zero pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from litedetr.kernels.constants import lasting
from litedetr.kernels.points import Sampling, SamplingPoints

MOST_ROWS = 2**31 - 1  # rows are counted in 32 bits, half the traffic of 64
CORNERS = 4  # of a sample; a chunk's are counted in 32 bits as well
IMAGE_ROWS = 8  # copied at a time: the other heads' channels stay in the cache until it is their turn
MOST_KEPT = 64  # level sizes whose constants are kept; making them takes a tenth of a call on small maps
CPU = torch.device("cpu")
BORDER = 2  # zero pixels on each side: all four corners of a sample outside lie among them


@dataclass(frozen=True)
class Levels:
    """Where the pixels of each level lie among the tokens of a bordered table.

    A level has BORDER zero rows above and below, and as many zero columns on the left; a row's right border is the
    next row's left one. Behind the last level lie as many zero tokens as a sample's corners reach ahead.
    """

    shapes: tuple[tuple[int, int], ...]  # (H_l, W_l), without borders

    @property
    def pitches(self) -> list[int]:
        """Tokens from one image row to the next."""
        return [width + BORDER for _, width in self.shapes]

    @property
    def starts(self) -> list[int]:
        """First token of each level and, last, behind all of them."""
        starts = [0]
        for (height, _), pitch in zip(self.shapes, self.pitches, strict=True):
            starts.append(starts[-1] + (height + 2 * BORDER) * pitch)
        return starts

    @property
    def reach(self) -> int:
        """Tokens from a sample's first corner to its last."""
        return max(self.pitches, default=0) + 1

    @property
    def num_tokens(self) -> int:
        return self.starts[-1] + self.reach + 1

    def cells(self) -> Tensor:
        """(4, S') the cell of which each token is the top left, top right, lower left and lower right corner.

        A cell is the square between four pixels, and has the number of its first token. Each row ascends. The first
        border tokens of a level are corners of no cell of it, and get the level's first. Kept: not to be changed.
        """
        return _cells(self)

    def images(self, table: Tensor) -> list[Tensor]:
        """Views (B, M, H_l + 2 BORDER, W_l + BORDER, D) of bordered tables (B, M, S', D)."""
        ends = zip(self.starts, self.starts[1:], self.pitches, strict=False)
        return [table[:, :, start:stop].unflatten(2, (-1, pitch)) for start, stop, pitch in ends]


def bordered(table: Tensor, points: SamplingPoints, dtype: torch.dtype) -> Tensor:
    """(B, S, M, D) -> tables (B, M, S', D) of `dtype`; padding is zeroed like the border."""
    batch, _, heads, channels = table.shape
    levels = Levels(points.shapes)
    out = table.new_empty(batch, heads, levels.num_tokens, channels, dtype=dtype)
    for level, (image, pixels) in enumerate(zip(levels.images(out), _pixels(table, points), strict=True)):
        for border in (image[:, :, :BORDER], image[:, :, -BORDER:], image[..., :BORDER, :]):
            border.zero_()
        inner = _inner(image)
        for part, source in zip(inner.split(IMAGE_ROWS, dim=2), pixels.split(IMAGE_ROWS, dim=2), strict=True):
            part.copy_(source)
        _zero_padding(inner, points, level)
    out[:, :, levels.starts[-1] :] = 0
    return out


def unbordered(table: Tensor, like: Tensor, points: SamplingPoints) -> Tensor:
    """The gradient of `bordered`: tables (B, M, S', D) -> (B, S, M, D) like the values."""
    out = torch.empty_like(like, memory_format=torch.contiguous_format)
    images = Levels(points.shapes).images(table)
    for level, (image, pixels) in enumerate(zip(images, _pixels(out, points), strict=True)):
        pixels.copy_(_inner(image))
        _zero_padding(pixels, points, level)
    return out


def _pixels(table: Tensor, points: SamplingPoints) -> list[Tensor]:
    """Views (B, M, H_l, W_l, D) of a table without borders (B, S, M, D)."""
    parts = table.transpose(1, 2).split([h * w for h, w in points.shapes], dim=2)
    return [part.unflatten(2, shape) for part, shape in zip(parts, points.shapes, strict=True)]


def _inner(image: Tensor) -> Tensor:
    return image[..., BORDER:-BORDER, BORDER:, :]


def _zero_padding(pixels: Tensor, points: SamplingPoints, level: int) -> None:
    """pixels (B, M, H_l, W_l, D)."""
    if points.valid_sizes is None:
        return
    for image, (height, width) in zip(pixels, points.valid_sizes[:, level].tolist(), strict=True):
        image[:, max(height, 0) :] = 0
        image[:, :, max(width, 0) :] = 0


@lru_cache(maxsize=MOST_KEPT)
def _cells(levels: Levels) -> Tensor:
    with lasting(CPU):
        cells = torch.arange(levels.num_tokens, dtype=torch.int32, device=CPU).repeat(4, 1)
        for start, stop, pitch in zip(levels.starts, levels.starts[1:], levels.pitches, strict=False):
            cells[:, start:stop] -= _integers([0, 1, pitch, pitch + 1]).unsqueeze(-1)
            cells[:, start:stop].clamp_(min=start)
    return cells


@dataclass(frozen=True)
class Grid:
    """What turns locations into rows of a table. Kept: its tensors are not to be changed.

    Every constant is repeated for the P points: inner loops of L * P numbers vectorise, broadcasts over P do not.
    """

    size: Tensor  # (L, P, 2) float, (width, height) of the levels
    limit: Tensor  # (B or 1, L, P, 2) float, valid (width, height)
    origin: Tensor  # (M, L, P), row of pixel (0, 0); the heads' tables lie one behind the other
    pitch: Tensor  # (L, P), rows from one image row to the next
    corners: Tensor  # (L, P, 4), rows from a sample's first corner to each of the four
    rows: int  # of a table
    sampling: Sampling  # how a location between pixels is read

    @classmethod
    def of(cls, points: SamplingPoints, heads: int, dtype: torch.dtype) -> Grid:
        num_points = points.offsets.shape[-2]
        rows = Levels(points.shapes).num_tokens
        if rows * heads > MOST_ROWS:
            raise ValueError(
                f"value: expected at most {MOST_ROWS} rows S * M an image, got {rows * heads}; take smaller maps"
            )
        samples = heads * len(points.shapes) * num_points
        if samples > MOST_ROWS // CORNERS:
            raise ValueError(
                f"offsets: expected at most {MOST_ROWS // CORNERS} samples M * L * P a query, got {samples}"
            )
        grid = _grid(Levels(points.shapes), heads, num_points, dtype, points.sampling)
        if points.valid_sizes is None:
            return grid
        limit = points.valid_limits(grid.size[:, 0])
        return replace(grid, limit=limit.unsqueeze(2).repeat(1, 1, num_points, 1))


@lru_cache(maxsize=MOST_KEPT)
def _grid(levels: Levels, heads: int, num_points: int, dtype: torch.dtype, sampling: Sampling) -> Grid:
    """Of images without padding."""
    with lasting(CPU):
        size = torch.tensor([(w, h) for h, w in levels.shapes], dtype=dtype, device=CPU).view(-1, 1, 2)
        starts, pitch = (_integers(x).unsqueeze(-1) for x in (levels.starts[:-1], levels.pitches))
        first = starts + BORDER * (pitch + 1)  # of head 0
        origin = first + levels.num_tokens * torch.arange(heads, dtype=torch.int32, device=CPU).view(-1, 1, 1)
        corners = torch.stack([pitch * 0, pitch * 0 + 1, pitch, pitch + 1], dim=-1)
        size = size.repeat(1, num_points, 1)
        return Grid(
            size=size,
            limit=size.unsqueeze(0),
            origin=origin.repeat(1, 1, num_points),
            pitch=pitch.repeat(1, num_points),
            corners=corners.repeat(1, num_points, 1),
            rows=levels.num_tokens,
            sampling=sampling,
        )


def _integers(numbers: list[int]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int32, device=CPU)
