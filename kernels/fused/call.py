"""One launch: the arguments that the kernels share, the grid of programs, and the function that launches."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from litedetr.kernels.constants import MOST_KEPT, in_use
from litedetr.kernels.fused.launch import Launch, Launches, Pass, shape_of
from litedetr.kernels.fused.limits import MOST_INT32, check_limits
from litedetr.kernels.fused.sizes import Sizes, power_of_two
from litedetr.kernels.fused.tables import level_table, tile_order
from litedetr.kernels.inputs import Inputs

HALVES = (torch.float16, torch.bfloat16)
POINTS_AT_ONCE = 4  # of a level
COEFFICIENTS = 4  # of a sample
REAL = {torch.float32: tl.float32, torch.float64: tl.float64}

Grid = tuple[int, int, int]
Launcher = Callable[..., None]  # (kernel, grid, *arguments, **constants and options)


def launch_kernel(kernel, grid: Grid, *arguments: object, **constants: object) -> None:
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
    if device.type == "cpu":
        return nullcontext()
    module = torch.get_device_module(device)
    return nullcontext() if module.current_device() == device.index else module.device(device)


@dataclass(frozen=True)
class Plan:
    """What the launches of a pass take that depends only on sizes."""

    grid: Grid  # programs over blocks of queries, heads and images
    levels: Tensor  # (L, 3) of `level_table`
    order: Tensor | None  # (slots,) of `tile_order`, None in raster order
    constants: dict[str, object]  # compiled into every kernel
    query_constants: dict[str, object]  # these, and those of kernels over blocks of queries, with their launch options
    real: torch.dtype  # the precision that kernels compute in


@lru_cache(maxsize=MOST_KEPT)
def plan_of(sizes: Sizes, launch: Launch) -> Plan:
    """Raises ValueError if a count is too large for the kernels."""
    check_limits(sizes, launch)
    order = None  # queries one behind the other
    if sizes.query_shapes is not None and launch.tile_height > 1:
        order = tile_order(sizes.query_shapes, launch.tile, sizes.device)
    num_slots = sizes.queries if order is None else len(order)
    constants = _constants(sizes)
    return Plan(
        grid=(triton.cdiv(num_slots, launch.block_queries), sizes.heads, sizes.batch),
        levels=level_table(sizes.shapes, sizes.device),
        order=order,
        constants=constants,
        query_constants=constants
        | _vector_constants(sizes)
        | {
            "SAMPLING": sizes.sampling,
            "BOXES": sizes.boxes,
            "ORDERED": order is not None,
            "BLOCK_QUERIES": launch.block_queries,
            "BLOCK_POINTS": min(power_of_two(sizes.points), POINTS_AT_ONCE),
            "INDEX": _index_type(sizes),
            "num_warps": launch.num_warps,
            "maxnreg": launch.max_registers,
            "num_stages": launch.num_stages,
        },
        real=sizes.real,
    )


def _constants(sizes: Sizes) -> dict[str, object]:
    return {
        "SCORE": sizes.score,
        "PADDED": sizes.padded,
        "HEADS": sizes.heads,
        "CHANNELS": sizes.channels,
        "LEVELS": sizes.levels,
        "POINTS": sizes.points,
        "REAL": REAL[sizes.real],
        "SCALE": sizes.channels**-0.5,  # 1 / sqrt(D), of dot products
        "enable_fp_fusion": True,  # the default differs between versions of Triton
    }


def _vector_constants(sizes: Sizes) -> dict[str, object]:
    """How a head's channels are read, see kernels/fused/vectors.py."""
    tiles = 2 if sizes.channels % 2 == 0 else 1
    packed = tiles == 2 and sizes.dtype in HALVES
    return {
        "TILES": tiles,
        "PACKED": str(sizes.dtype).removeprefix("torch.") if packed else "",
        "BLOCK_WORDS": power_of_two(sizes.channels // tiles),
    }


def _index_type(sizes: Sizes) -> tl.dtype:
    """Of distances in memory within an image: in its tables, from a pixel before them, and in what queries have."""
    of_head = max(sizes.channels, sizes.levels * sizes.points * COEFFICIENTS)
    most = sizes.heads * max(sizes.cells * sizes.channels, sizes.queries * of_head)
    return tl.int32 if most <= MOST_INT32 else tl.int64


@dataclass(frozen=True)
class Call:
    """The inputs of a pass, and how it is cut into programs."""

    inputs: Inputs  # of the pass, with any strides
    sizes: Sizes  # of the inputs
    plan: Plan  # its programs and constants, from sizes only

    @classmethod
    def of(cls, pass_name: Pass, inputs: Inputs, launches: Launches) -> Call:
        sizes = Sizes.of(inputs)
        launch = launches(shape_of(pass_name, sizes), sizes.device)
        return cls(inputs, sizes, in_use(plan_of(sizes, launch)))

    @property
    def real(self) -> torch.dtype:
        """The precision that kernels compute in."""
        return self.plan.real

    def arguments(self, *own: object) -> tuple[object, ...]:
        """Those of a kernel over blocks of queries. own: the kernel's own, between the shared tensors and the sizes."""
        points, plan = self.inputs.points, self.plan
        return (
            *map(contiguous, self.inputs.tensors),
            plan.levels,
            contiguous(points.valid_sizes),
            plan.order,
            *own,
            points.offsets.shape[1],
            self.inputs.value.shape[1],
        )


def contiguous(x: Tensor | None) -> Tensor | None:
    """As the kernels read it: in pairs of numbers, which lie at a multiple of their size wherever a view begins."""
    if x is None:
        return None
    x = x.contiguous()
    return x.clone() if x.data_ptr() % (2 * x.element_size()) else x
