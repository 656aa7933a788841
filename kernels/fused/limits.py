"""How much the kernels' 32-bit indices, a GPU's grid and a tile hold."""

from __future__ import annotations

from litedetr.kernels.fused.launch import Launch
from litedetr.kernels.fused.sizes import Sizes, power_of_two

MOST_INT32 = 2**31 - 1
MOST_GRID = 2**16 - 1  # programs along the second and third axis
MOST_TILE = 2**20  # elements, Triton's own limit
MOST_BLOCK = 2**14  # elements of several queries, 32 for each thread of 16 warps: beyond, compilers take minutes


def check_limits(sizes: Sizes, blocks: Launch) -> None:
    """Raise ValueError with the count that is too large; from sizes alone, before anything is copied or compiled."""
    tile = power_of_two(sizes.channels)
    limits = (
        ("value", "images (B)", sizes.batch, MOST_GRID),
        ("value", "heads (M)", sizes.heads, MOST_GRID),
        ("value", "channels (D), rounded up to a power of two,", tile, MOST_TILE),
        ("shapes", "cells (H + 1) * (W + 1)", sizes.cells, MOST_INT32),
        ("offsets", "queries (Q)", sizes.queries, MOST_INT32 - blocks.block_queries),
    )
    for name, what, count, most in limits:
        if count > most:
            raise ValueError(f"{name}: expected at most {most} {what}, got {count}")
    most_queries = max(1, MOST_BLOCK // tile)
    if blocks.block_queries > most_queries:
        raise ValueError(
            f"block_queries: expected at most {most_queries} of {tile} channels, got {blocks.block_queries}"
        )
