"""From sampling locations to the four table rows around each, and the weights between them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from litedetr.kernels.cpu.table import BORDER, Grid


@dataclass(frozen=True)
class Corners:
    """The samples of a chunk. For those outside of a level all four rows are zero, and so are samples and slopes.

    A NaN location lies outside, with NaN as its fractions.
    """

    rows: Tensor  # (N, K, 4), rows of the images' tables
    fx: Tensor  # (N, K), fraction of the way from the left to the right ones
    fy: Tensor  # (N, K), from the upper to the lower ones

    @classmethod
    def of(cls, reference: Tensor, offsets: Tensor, grid: Grid, limit: Tensor, images: int) -> Corners:
        """reference (n, L, 2 | 4), offsets (n, M, L, P, 2) of so many images, limit (images or 1, L, P, 2)."""
        queries = len(offsets) // images
        if len(limit) > 1:
            limit = limit.repeat_interleave(queries, 0).unsqueeze(1)
        location = _pixels(reference, offsets, grid.size)
        location = torch.minimum(location, limit, out=location).clamp_(min=-BORDER)
        low = location.floor()
        fx, fy = (f.contiguous().flatten(0, 1).flatten(1) for f in location.sub_(low).unbind(-1))
        x, y = low.nan_to_num_(-BORDER).int().unbind(-1)  # (n, M, L, P)
        first = torch.addcmul(grid.origin, y, grid.pitch).add_(x, alpha=len(grid.origin))
        if images > 1:
            table = torch.arange(images, dtype=torch.int32) * grid.rows
            first += table.repeat_interleave(queries).view(-1, 1, 1, 1)
        below = first + grid.pitch
        rows = torch.stack([first, first + len(grid.origin), below, below + len(grid.origin)], dim=-1)
        return cls(rows.view(*fx.shape, 4), fx, fy)

    def weights(self) -> Tensor:
        """(N, K, 4) bilinear weights."""
        right, below = self.fx, self.fy
        both = right * below
        below = below - both
        return torch.stack([1 - right - below, right - both, below, both], dim=-1)

    def slopes(self) -> tuple[Tensor, Tensor]:
        """(N, K, 4) derivatives of the weights by x and by y."""
        left, above = 1 - self.fx, 1 - self.fy
        by_x = torch.stack([-above, above, -self.fy, self.fy], dim=-1)
        by_y = torch.stack([-left, -self.fx, left, self.fx], dim=-1)
        return by_x, by_y


def _pixels(reference: Tensor, offsets: Tensor, size: Tensor) -> Tensor:
    """(n, M, L, P, 2) positions in pixels; see SamplingPoints.pixel_locations."""
    reference = reference[:, None, :, None]
    if reference.shape[-1] == 2:
        return offsets + (reference * size - 0.5)
    step = reference[..., 2:] * size * (0.5 / offsets.shape[-2])
    return torch.addcmul(reference[..., :2] * size - 0.5, offsets, step)
