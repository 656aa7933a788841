"""The deterministic backward pass: samples are sorted, and kernels/fused/segments.py adds them up in this order."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from litedetr.kernels.constants import in_use
from litedetr.kernels.fused.call import COEFFICIENTS, Call, Launcher, contiguous
from litedetr.kernels.fused.launch import Segments
from litedetr.kernels.fused.limits import MOST_INT32
from litedetr.kernels.fused.patches import PARTS, Patches, patches_of
from litedetr.kernels.fused.segments import segment_kernel
from litedetr.kernels.fused.sizes import power_of_two
from litedetr.kernels.inputs import Gradients

MOST_INT16 = 2**15 - 1
FEWEST_CHANNELS = 16  # that tl.dot takes in Triton 3.3


class Samples(NamedTuple):
    """What the backward kernel leaves of each sample, in place of atomics, in the order of its arguments."""

    coefficients: Tensor | None = None  # (B, Q, M, L, P, 4): p, d_score, x and y from the patch's first pixel
    patch: Tensor | None = None  # (B, Q, M, L, P), integers: (head, quad, part), -1 for samples outside
    patch_levels: Tensor | None = None  # Patches.levels
    num_quads: int = 0  # of a head

    @classmethod
    def empty(cls, call: Call, segments: Segments) -> Samples:
        offsets = call.inputs.points.offsets
        patches = _patches(call, segments)
        most = offsets.shape[2] * patches.num_quads * PARTS
        coefficients = offsets.new_empty((*offsets.shape[:-1], COEFFICIENTS), dtype=call.real)
        patch = offsets.new_empty(offsets.shape[:-1], dtype=_integers(most))
        return cls(coefficients, patch, patches.levels, patches.num_quads)


def _patches(call: Call, segments: Segments) -> Patches:
    return in_use(patches_of(call.sizes, segments.patch_samples))


def _integers(most: int) -> torch.dtype:
    """The narrowest dtype that holds a number: torch's radix sort takes one pass for each of its bytes."""
    if most <= MOST_INT16:
        return torch.int16
    return torch.int32 if most <= MOST_INT32 else torch.int64


def add_up(
    call: Call, segments: Segments, samples: Samples, launcher: Launcher, grad_out: Tensor, grads: Gradients
) -> None:
    """Write the gradients of key and value. grad_out: (B, Q, M, D), contiguous."""
    inputs, points, patches = call.inputs, call.inputs.points, _patches(call, segments)
    batch, queries, heads, levels, num_points, _ = points.offsets.shape
    channels = inputs.value.shape[3]
    # where each patch begins in the sorted samples of its image
    patch, order = samples.patch.flatten(1).sort(stable=True)  # each image by itself: fewer bits to sort by
    borders = torch.arange(heads * patches.num_quads * PARTS + 1, dtype=patch.dtype, device=patch.device)
    start = torch.searchsorted(patch, borders.expand(batch, -1).contiguous())
    most = heads * max(queries * levels * num_points * COEFFICIENTS, max(queries, inputs.value.shape[1]) * channels)
    # one launch after the other: neighbouring patches share pixels, those of one part share none
    for part in range(PARTS):
        launcher(
            segment_kernel,
            (patches.num_quads, heads, batch),
            contiguous(inputs.query),
            patches.quads,
            contiguous(points.valid_sizes),
            grad_out,
            samples.coefficients,
            order,
            start,
            grads.key,
            grads.value,
            patches.num_quads,
            queries,
            inputs.value.shape[1],
            **call.plan.constants,
            BLOCK_CHANNELS=max(power_of_two(channels), FEWEST_CHANNELS),
            INDEX=tl.int32 if most <= MOST_INT32 else tl.int64,
            TF32=torch.version.hip is None,
            PART=part,
            BLOCK_SAMPLES=segments.samples,
            num_warps=segments.num_warps,
            maxnreg=segments.max_registers,
            num_stages=segments.num_stages,
        )
