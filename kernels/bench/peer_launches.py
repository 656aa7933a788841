"""How other libraries launch their Triton kernels: the grids, arguments and constants that their own code gives.

Each function takes the module with the kernels, a workload, a pass and who launches (kernels/fused/call.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from litedetr.kernels.bench.workloads import Workload
from litedetr.kernels.fused.call import Launcher
from litedetr.kernels.fused.launch import Pass
from litedetr.kernels.fused.sizes import power_of_two


@dataclass(frozen=True)
class Tensors:
    """The arguments of a deformable attention, without memory. B images, S tokens, Q queries, M heads, L levels."""

    value: Tensor  # (B, S, M, D)
    locations: Tensor  # (B, Q, M, L, P, 2), normalised
    weights: Tensor  # (B, Q, M, L, P)
    out: Tensor  # (B, Q, M, D)
    shapes: Tensor  # (L, 2)
    starts: Tensor  # (L,)

    @classmethod
    def of(cls, work: Workload, index: torch.dtype) -> Tensors:
        """index: the dtype of shapes and starts."""
        heads, levels = (work.batch, work.queries, work.heads), len(work.shapes)
        return cls(
            value=empty(work.dtype, work.batch, work.tokens, work.heads, work.channels),
            locations=empty(work.dtype, *heads, levels, work.points, 2),
            weights=empty(work.dtype, *heads, levels, work.points),
            out=empty(work.dtype, *heads, work.channels),
            shapes=empty(index, levels, 2),
            starts=empty(index, levels),
        )


def empty(dtype: torch.dtype, *size: int) -> Tensor:
    return torch.empty(size, dtype=dtype, device="meta")


def deformops(source: ModuleType, work: Workload, pass_name: Pass, launcher: Launcher) -> None:
    """Gradients of values are added in their own precision, as it does from sm_90 on."""
    _deformops(source, work, pass_name, launcher, work.dtype)


def deformops_fp32(source: ModuleType, work: Workload, pass_name: Pass, launcher: Launcher) -> None:
    """Gradients of values are added in fp32."""
    _deformops(source, work, pass_name, launcher, torch.float32)


def _deformops(source: ModuleType, work: Workload, pass_name: Pass, launcher: Launcher, added: torch.dtype) -> None:
    block = 32
    given = Tensors.of(work, torch.int32)
    grid = (-(-work.queries // block), work.heads, work.batch)
    pointers = [given.value, given.shapes, given.starts, given.locations, given.weights, given.out]
    strided = [given.value, given.locations, given.weights, given.out]
    constants = {"BLOCK_SIZE_Q": block, "BLOCK_SIZE_D": power_of_two(work.channels)}
    if pass_name == "forward":
        kernel, constants["aggregate"] = source.msda_forward_kernel, 1  # softmax
    else:
        kernel = source._msda_backward_kernel
        grads = [empty(added, *given.value.shape), given.locations, given.weights]
        pointers, strided = pointers + grads, strided + grads
    sizes = (work.batch, work.queries, work.heads, len(work.shapes), work.points, work.channels)
    strides = [stride for tensor in strided for stride in tensor.stride()]
    launcher(kernel, grid, *pointers, *sizes, *strides, **constants)


def roulbac(source: ModuleType, work: Workload, pass_name: Pass, launcher: Launcher) -> None:
    """Forward the launch with the fewest instructions of those it tries that do not spill."""
    given = Tensors.of(work, torch.int64)
    pointers = [given.value, given.shapes, given.starts, given.locations, given.weights, given.out]
    if pass_name == "forward":
        kernel, block, warps = source._msda_forward_kernel.fn, 16, 2
    else:
        kernel, block, warps = source._msda_backward_kernel, source.BWD_BLOCK_Q, source.BWD_NUM_WARPS
        pointers += [given.value, given.locations, given.weights]
    sizes = {"M": work.heads, "D": work.channels, "L": len(work.shapes), "K": work.points}
    launcher(
        kernel,
        (-(-work.queries // block), work.batch * work.heads, 1),
        *pointers,
        work.queries,
        work.tokens,
        **sizes,
        BLOCK_Q=block,
        BLOCK_D=power_of_two(work.channels),
        num_warps=warps,
    )


def rziga(source: ModuleType, work: Workload, pass_name: Pass, launcher: Launcher) -> None:
    """A program for each query and head, with the fewest warps of those that it tries."""
    given = Tensors.of(work, torch.int64)
    pointers = [given.out, given.value, given.locations, given.weights, given.shapes]
    kernel = source.triton_multi_scale_deformable_attention_fwd_kernel.fn
    if pass_name == "backward":
        kernel = source.triton_multi_scale_deformable_attention_bwd_kernel.fn
        pointers = [given.value, given.locations, given.weights, *pointers]
    levels = len(work.shapes)
    sizes = [work.batch, work.tokens, work.channels, work.queries, work.heads, levels, work.points]
    blocks = map(power_of_two, (work.channels, levels, work.points))
    grid = (work.queries, work.batch, work.heads)
    launcher(kernel, grid, *pointers, *sizes, *blocks, "zeros", False, num_warps=2)


def alexander0yang(source: ModuleType, work: Workload, pass_name: Pass, launcher: Launcher) -> None:
    """All samples lie in the first level. Forward about the fewest instructions of all launches that it tries."""
    height, width = work.shapes[0]
    samples = len(work.shapes) * work.points
    query = empty(work.dtype, work.batch, 1, work.heads, work.queries, work.channels)  # also keys, values, output
    places = empty(work.dtype, work.batch, 1, work.queries, 1, samples, 2)
    sums = empty(torch.float32, work.batch, 1, work.heads, work.queries)
    scale = work.channels**-0.5
    after = [work.batch, 1, work.heads, work.queries]
    constants = {"HEAD_DIM": work.channels, "WIDTH": width, "HEIGHT": height, "N_COORDS": samples}
    constants["DTYPE_MODE"] = int(work.dtype != torch.float32)
    if pass_name == "forward":
        kernel, block, others, warps = source._fwd_kernel.fn, 16, 8, 4
        pointers, strided = [query, query, query, places, scale, sums, query], [query] * 4 + [places, sums]
    else:
        kernel, block, others, warps = source._bwd_kernel, 8, 8, 16
        table = empty(torch.float32, *query.shape)
        pointers = [query, query, query, places, scale, query, query, table, table, sums, sums]
        strided = [query, places, sums]
    constants |= {"BLOCK_M": block, "BLOCK_N": others, "num_warps": warps, "num_stages": 2}
    strides = [stride for tensor in strided for stride in tensor.stride()]
    grid = (-(-work.queries // block), work.batch * work.heads, 1)
    launcher(kernel, grid, *pointers, *strides, *after, **constants)
