"""How often the loop of the deterministic kernel runs, which depends on where the samples lie: counted on the CPU."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from litedetr.kernels.bench.workloads import Workload
from litedetr.kernels.fused.launch import Segments
from litedetr.kernels.fused.patches import PARTS, Patches, patches_of
from litedetr.kernels.fused.sizes import Sizes
from litedetr.kernels.points import SamplingPoints


def steps_of_patches(workload: Workload, segments: Segments) -> Tensor:
    """(programs,) int64: steps of the loop of each program of all four launches of kernels/fused/segments.py."""
    counts = _counts(workload, segments.patch_samples)
    return (counts + segments.samples - 1) // segments.samples


@lru_cache(maxsize=16)  # candidates of a launch differ in few of these
def _counts(workload: Workload, patch_samples: int) -> Tensor:
    inputs = workload.inputs("cpu")
    return samples_of_patches(inputs.points, patches_of(Sizes.of(inputs), patch_samples))


@torch.no_grad()
def samples_of_patches(points: SamplingPoints, patches: Patches) -> Tensor:
    """(B * M * quads * PARTS,), as the backward kernel numbers them; valid sizes are left out."""
    batch, _, heads, levels, *_ = points.offsets.shape
    first, across, side = (column.view(-1, 1) for column in patches.levels.long().unbind(1))  # (L, 1) each
    size = points.level_sizes(points.reference).view(1, 1, 1, levels, 1, 2)
    cell = points.pixel_locations().floor()  # (B, Q, M, L, P, 2), (x, y)
    touches = ((cell >= -1) & (cell < size)).all(-1)
    column, row = ((cell + 1).clamp(min=0).long() // side.unsqueeze(-1)).unbind(-1)
    quad = first + (row // 2) * across + column // 2
    head = torch.arange(batch * heads).view(batch, 1, heads, 1, 1)
    number = ((head * patches.num_quads + quad) * PARTS + row % 2 * 2 + column % 2)[touches]
    return torch.bincount(number, minlength=batch * heads * patches.num_quads * PARTS)
