"""From sampling locations to the table rows that each reads, and their weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from litedetr.kernels.cpu.table import BORDER, Grid


@dataclass(frozen=True)
class Corners:
    """Bilinear samples of a chunk. Those outside of a level read four zero rows.

    A NaN location lies outside, with NaN as its fractions.
    """

    rows: Tensor  # (N, K, 4), rows of the images' tables
    fx: Tensor  # (N, K), fraction of the way from the left to the right ones
    fy: Tensor  # (N, K), from the upper to the lower ones

    @classmethod
    def of(cls, location: Tensor, grid: Grid, images: int) -> Corners:
        """location: (n, M, L, P, 2) in pixels, not far outside; overwritten."""
        low = location.floor()
        fx, fy = (f.contiguous().flatten(0, 1).flatten(1) for f in location.sub_(low).unbind(-1))
        # as in memory as the shape says, whatever the layout of the offsets
        rows = (_table_rows(low, grid, images).unsqueeze(-1) + grid.corners).contiguous()
        return cls(rows.view(*fx.shape, 4), fx, fy)

    def weights(self) -> Tensor:
        """(N, K, 4) bilinear weights."""
        return torch.stack(_bilinear(self.fx, self.fy), dim=-1)

    def planes(self, order: Tensor) -> Tensor:
        """(4, n) weights of the n samples of `order`."""
        return torch.stack(_bilinear(*(f.view(-1).index_select(0, order) for f in (self.fx, self.fy))))

    def combined(self, products: Tensor) -> tuple[Tensor, ...]:
        """From products (N, V, K, 4) with the rows, those (N, V, K) with the samples and their derivatives by x and y.

        The products with the samples are weighted sums: a difference of two infinite scores would be NaN.
        """
        fx, fy = self.fx.unsqueeze(1), self.fy.unsqueeze(1)
        left, right, below_left, below_right = products.unbind(-1)
        from_right, from_below = 1 - fx, 1 - fy
        upper = torch.addcmul(left * from_right, fx, right)
        lower = torch.addcmul(below_left * from_right, fx, below_right)
        above, below = right - left, below_right - below_left
        sample = torch.addcmul(upper * from_below, fy, lower)
        return sample, torch.addcmul(above, fy, below - above), lower - upper


def _bilinear(right: Tensor, below: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights of the four corners, from the fractions of the way to the right and to the lower ones."""
    both = right * below
    below = below - both
    return 1 - right - below, right - both, below, both


@dataclass(frozen=True)
class NearestPixels:
    """Nearest samples of a chunk: one row each, a zero one outside of a level. A NaN location lies outside."""

    rows: Tensor  # (N, K, 1), as of Corners
    ones: Tensor  # (N, K, 1), but NaN at a NaN location

    @classmethod
    def of(cls, location: Tensor, grid: Grid, images: int) -> NearestPixels:
        """location: (n, M, L, P, 2) in whole pixels, not far outside; overwritten."""
        total = location.sum(-1)  # NaN if one of the two is
        ones = total.sub_(total).add_(1).flatten(0, 1).flatten(1).unsqueeze(-1)
        return cls(_table_rows(location, grid, images).view(ones.shape), ones)

    def weights(self) -> Tensor:
        """(N, K, 1)."""
        return self.ones.clone()

    def planes(self, order: Tensor) -> Tensor:
        """(1, n), as of Corners."""
        return self.ones.view(1, -1).index_select(1, order)

    def combined(self, products: Tensor) -> tuple[Tensor, ...]:
        """The products with the samples only, which are steps of the location."""
        return ((products * self.ones.unsqueeze(1)).squeeze(-1),)


def corners_of(reference: Tensor, offsets: Tensor, grid: Grid, limit: Tensor, images: int) -> Corners | NearestPixels:
    """reference (n, L, 2 | 4), offsets (n, M, L, P, 2) of so many images, limit (images or 1, L, P, 2)."""
    if len(limit) > 1:
        limit = limit.repeat_interleave(len(offsets) // images, 0).unsqueeze(1)
    location = _pixels(reference, offsets, grid)
    location = torch.minimum(location, limit, out=location).clamp_(min=-BORDER)
    return (NearestPixels if grid.sampling == "nearest" else Corners).of(location, grid, images)


def _table_rows(pixel: Tensor, grid: Grid, images: int) -> Tensor:
    """(n, M, L, P) rows of the images' tables at pixels (n, M, L, P, 2), NaN outside; these are overwritten."""
    x, y = pixel.nan_to_num_(-BORDER).int().unbind(-1)  # (n, M, L, P)
    heads = x.shape[1]
    rows = torch.addcmul(grid.origin[:heads], y, grid.pitch).add_(x)
    if images > 1:
        table = torch.arange(images, dtype=torch.int32) * (heads * grid.rows)
        rows += table.repeat_interleave(len(pixel) // images).view(-1, 1, 1, 1)
    return rows


def _pixels(reference: Tensor, offsets: Tensor, grid: Grid) -> Tensor:
    """(n, M, L, P, 2) positions in pixels; see SamplingPoints.pixel_locations."""
    reference, size, nearest = reference[:, None, :, None], grid.size, grid.sampling == "nearest"
    centre = reference[..., :2] * size
    if not nearest:
        centre -= 0.5
    if reference.shape[-1] == 2:
        location = offsets + centre
    else:
        location = torch.addcmul(centre, offsets, reference[..., 2:] * size * (0.5 / offsets.shape[-2]))
    return location.floor_() if nearest else location
