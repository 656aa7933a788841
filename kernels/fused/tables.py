"""Small integer tables on the device: where levels lie, and in which order a query grid is worked.

They depend only on sizes and are kept, so that no launch waits for a copy to the device. Before a CUDA graph is
captured, every pass that it holds must have run once with the same shapes on the same device.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from litedetr.kernels.constants import MOST_KEPT, lasting
from litedetr.kernels.fused.sizes import Shapes


@lru_cache(maxsize=MOST_KEPT)
def level_table(shapes: Shapes, device: torch.device) -> Tensor:
    """(L, 3) int32: height, width, first token."""
    rows, token = [], 0  # one level's tokens behind the other's
    for height, width in shapes:
        rows.append((height, width, token))
        token += height * width
    with lasting(device):
        return torch.tensor(rows, dtype=torch.int32, device=device)


@lru_cache(maxsize=MOST_KEPT)
def tile_order(grids: Shapes, tile: tuple[int, int], device: torch.device) -> Tensor:
    """Queries that are the cells of `grids` in raster order, tile (height, width) by tile; int32, -1 outside.

    Neighbouring queries sample neighbouring pixels: a program that takes a tile of them reads fewer.
    """
    order, start = [], 0
    with lasting(device):
        for height, width in grids:
            # the grid rounded up to whole tiles, so that each block of queries is one tile
            rows, columns = -(-height // tile[0]) * tile[0], -(-width // tile[1]) * tile[1]
            index = torch.full((rows, columns), -1, dtype=torch.int32, device="cpu")
            cells = torch.arange(start, start + height * width, dtype=torch.int32, device="cpu")
            index[:height, :width] = cells.view(height, width)
            # (rows of tiles, tiles, rows of a tile, columns): tile by tile
            order.append(index.unflatten(1, (-1, tile[1])).unflatten(0, (-1, tile[0])).transpose(1, 2).flatten())
            start += height * width
        return torch.cat(order).to(device)
