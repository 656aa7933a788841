"""One launch: the arguments that the kernels share, and the grid of programs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.fused.launch import Launch
from kernels.fused.limits import MOST_INT32, check_limits
from kernels.fused.tables import level_table, num_cells, tile_order
from kernels.inputs import Inputs

REAL = {torch.float32: tl.float32, torch.float64: tl.float64}

Grid = tuple[int, int, int]
Launcher = Callable[..., None]  # (kernel, grid, *arguments, **constants and options)


def run(kernel, grid: Grid, *arguments: object, **constants: object) -> None:
    """Launch a kernel on the device of its first tensor; nothing where the grid is empty."""
    if 0 in grid:
        return
    device = next(x.device for x in arguments if isinstance(x, Tensor))
    if device.type != "cuda" or torch.version.hip:
        constants.pop("maxnreg", None)
    for option in ("maxnreg", "num_stages"):
        if constants.get(option) is None:  # Triton's own choice
            constants.pop(option, None)
    with _current(device):
        kernel[grid](*arguments, **constants)


def _current(device: torch.device) -> AbstractContextManager[object]:
    """Triton launches on the current device."""
    return nullcontext() if device.type == "cpu" else torch.get_device_module(device).device(device)


@dataclass(frozen=True)
class Call:
    """The inputs of a pass, how it is cut into programs, and who launches them."""

    inputs: Inputs
    blocks: Launch
    launcher: Launcher = run

    def __post_init__(self) -> None:
        check_limits(self.inputs, self.blocks)

    @property
    def real(self) -> torch.dtype:
        """The precision that kernels compute in."""
        return torch.promote_types(self.inputs.value.dtype, torch.float32)

    def over_queries(self, kernel, *arguments: object, **constants: object) -> None:
        """Launch a kernel over (blocks of queries, heads, images); the shared arguments stand before its own."""
        points = self.inputs.points
        batch, queries, heads = points.offsets.shape[:3]
        order = self._order()
        num_slots = queries if order is None else len(order)
        self.launcher(
            kernel,
            (triton.cdiv(num_slots, self.blocks.block_queries), heads, batch),
            *map(contiguous, self.inputs.tensors),
            level_table(points.shapes, points.offsets.device),
            contiguous(points.valid_sizes),
            order,
            *arguments,
            queries,
            self.inputs.value.shape[1],
            **constants,
            **self.constants(),
            BOXES=points.reference.shape[-1] == 4,
            ORDERED=order is not None,
            BLOCK_QUERIES=self.blocks.block_queries,
            BLOCK_POINTS=triton.next_power_of_2(points.offsets.shape[4]),
            INDEX=self._index_type(),
            num_warps=self.blocks.num_warps,
            maxnreg=self.blocks.max_registers,
            num_stages=self.blocks.num_stages,
        )

    def constants(self) -> dict[str, object]:
        """What is compiled into every kernel."""
        heads, levels, num_points = self.inputs.points.offsets.shape[2:5]
        channels = self.inputs.value.shape[3]
        return {
            "SCORE": self.inputs.score,
            "PADDED": self.inputs.points.valid_sizes is not None,
            "HEADS": heads,
            "CHANNELS": channels,
            "LEVELS": levels,
            "POINTS": num_points,
            "BLOCK_CHANNELS": triton.next_power_of_2(channels),
            "REAL": REAL[self.real],
            "SCALE": channels**-0.5,
            "enable_fp_fusion": True,  # the default differs between versions of Triton
        }

    def _order(self) -> Tensor | None:
        grids = self.inputs.points.query_shapes
        if grids is None or self.blocks.tile_height == 1:
            return None
        return tile_order(grids, self.blocks.tile, self.inputs.value.device)

    def _index_type(self) -> tl.dtype:
        """Of offsets within an image; they begin a pixel before it."""
        *_, heads, channels = self.inputs.value.shape
        return tl.int32 if num_cells(self.inputs.points.shapes) * heads * channels <= MOST_INT32 else tl.int64


def contiguous(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()
