"""From sampling locations to the four table rows around each, and the weights between them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.cpu.table import Grid


@dataclass(frozen=True)
class Corners:
    """The samples of a chunk: rows (N, K, 4) of the table and the fractions fx, fy (N, K) between them.

    inside: (N, K, 2), whether the location can move along x and along y without leaving the zero border.
    """

    rows: Tensor
    fx: Tensor
    fy: Tensor
    inside: Tensor

    @classmethod
    def of(cls, reference: Tensor, offsets: Tensor, grid: Grid, chunk: slice) -> Corners:
        """reference (n, L, 2 | 4), offsets (n, M, L, P, 2)."""
        location = _pixels(reference, offsets, grid.size)
        image = grid.images(chunk)
        limit = grid.limit[image] if len(grid.limit) > 1 else grid.limit
        held = torch.minimum(location.clamp(min=-1), limit)
        low = torch.minimum(held.floor(), limit - 1)
        fx, fy = (held - low).flatten(0, 1).flatten(1, 2).unbind(-1)
        inside = ((location >= -1) & (location < limit)).view(*fx.shape, 2)
        x, y = (low + 1).int().unbind(-1)  # (n, M, L, P)
        token = grid.start + y * grid.pitch + x + (image * grid.tokens).view(-1, 1, 1, 1)
        head = torch.arange(grid.heads, dtype=torch.int32).view(-1, 1, 1)
        first = token * grid.heads + head
        first = torch.minimum(first.clamp_(min=0), grid.last_first_row)  # NaN became any integer
        return cls((first.unsqueeze(-1) + grid.steps).view(*fx.shape, 4), fx, fy, inside)

    def weights(self) -> Tensor:
        """(N, K, 4) bilinear weights."""
        right, below = self.fx, self.fy
        both = right * below
        return torch.stack([1 - right - below + both, right - both, below - both, both], dim=-1)

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
