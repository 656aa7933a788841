"""Patches: squares of 1 to 3 cells a side, whose samples one program of kernels/fused/segments.py adds up.

A cell is the square between four pixels, those that reach over the border included: (H + 1) * (W + 1) of a level. Four
patches, two by two, make a quad, and its parts 0 to 3 are added up by four launches:

    cells of a level, patches of 2 x 2          pixel o is a corner of four patches, one of each part
    | 0 0 | 1 1 | 0 0 | 1 1 |
    | 0 0 | 1 1 | 0 0 | 1 1 |
    |-----o-----|-----o-----|                   parts of one number share no pixel
    | 2 2 | 3 3 | 2 2 | 3 3 |
    | 2 2 | 3 3 | 2 2 | 3 3 |

The tables depend only on sizes and are kept, see kernels/fused/tables.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from litedetr.kernels.constants import MOST_KEPT, lasting
from litedetr.kernels.fused.sizes import Sizes

PARTS = 4  # of a quad: patches
SIDES = (3, 2, 1)  # cells; a patch of 3 has the 16 pixels that a program holds


@dataclass(frozen=True)
class Patches:
    """The patches of all levels of an image and head."""

    levels: Tensor  # (L, 3) int32: first quad, quads across, cells of a patch's side
    quads: Tensor  # (quads, 8) int32: y and x of its first pixel, from -1; side, level, H, W, first token, 0

    @property
    def num_quads(self) -> int:
        return len(self.quads)


def side_of(cells: int, samples: int, most: int) -> int:
    """Cells of a patch's side: the most of SIDES with which a patch holds at most `most` samples on average, or 1."""
    return next((side for side in SIDES if samples * side**2 <= most * cells), 1)


@lru_cache(maxsize=MOST_KEPT)
def patches_of(sizes: Sizes, most: int) -> Patches:
    """most: samples of a patch, on average."""
    with lasting(sizes.device):
        rows, quads, first_quad, first_token = [], [], 0, sizes.tokens
        # the coarsest level first: its patches are the longest, and short ones fill the end of a launch
        for level in reversed(range(sizes.levels)):
            height, width = sizes.shapes[level]
            first_token -= height * width
            side = side_of((height + 1) * (width + 1), sizes.queries * sizes.points, most)
            down, across = (-(-(length + 1) // (2 * side)) for length in (height, width))
            rows.append((first_quad, across, side))
            quads.append(_quads(down, across, side, (side, level, height, width, first_token, 0)))
            first_quad += down * across
        levels = torch.tensor(rows[::-1], dtype=torch.int32, device=sizes.device)
        return Patches(levels, torch.cat(quads).to(sizes.device))


def _quads(down: int, across: int, side: int, rest: tuple[int, ...]) -> Tensor:
    """(down * across, 8) of a level, in raster order."""
    steps = (torch.arange(count, dtype=torch.int32, device="cpu") * (2 * side) - 1 for count in (down, across))
    first = torch.cartesian_prod(*steps)
    return torch.cat([first, torch.tensor(rest, dtype=torch.int32, device="cpu").expand(len(first), -1)], dim=1)
