"""Launches that scripts/autotune.py tries: the rule's, and others near it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product

from litedetr.kernels.fused.launch import (
    FEWEST_SEGMENT_SAMPLES,
    THREADS_PER_WARP,
    AnyLaunch,
    Launch,
    Segments,
    Shape,
    rule,
)
from litedetr.kernels.fused.sizes import power_of_two

FEWEST_ELEMENTS, MOST_ELEMENTS = 2, 32  # of a vector tile, a thread
WARPS = (1, 2, 4, 8, 16)
STAGES = (1, 2, 4)  # Triton's own number is 3 on NVIDIA GPUs, 2 on AMD's


def candidates(shape: Shape) -> list[AnyLaunch]:
    """Launches with a plausible number of elements for each thread; the rule's is the first, then its other stages."""
    found = [rule(shape)]
    found += [replace(found[0], num_stages=stages) for stages in STAGES]
    found += _of_segments(shape) if shape.pass_name == "segments" else _of_queries(shape)
    return list(dict.fromkeys(found))


def _of_queries(shape: Shape) -> Iterator[Launch]:
    """In raster order."""
    per_query = power_of_two(shape.channels)
    for warps, block in product(WARPS, (1, 2, 4, 8, 16, 32, 64, 128)):
        if _is_plausible(block * per_query, warps):
            yield Launch(block, warps)


def _of_segments(shape: Shape) -> Iterator[Segments]:
    """Patches of few cells take more programs, of many cells longer ones."""
    fewest = 1 if shape.dtype == "float64" else FEWEST_SEGMENT_SAMPLES
    for warps, samples, most in product(WARPS, (4, 8, 16, 32, 64), (80, 320, 1280)):
        if samples >= fewest and _is_plausible(samples * power_of_two(shape.channels), warps):
            yield Segments(samples, warps, most)


def _is_plausible(elements: int, warps: int) -> bool:
    return FEWEST_ELEMENTS <= elements / (warps * THREADS_PER_WARP) <= MOST_ELEMENTS


def variants(fastest: Sequence[AnyLaunch], stages: int | None, has_grid: bool) -> list[AnyLaunch]:
    """The fastest launches over tiles of the query grid, if there is one, and with other stages, if they helped."""
    tiles = [
        replace(item, tile_height=height)
        for item in fastest
        for height in (2, 4, 8, 16)
        if has_grid and height < item.block_queries
    ]
    staged = [replace(item, num_stages=stages) for item in fastest if stages is not None]
    return list(dict.fromkeys([*tiles, *staged]))
