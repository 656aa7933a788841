"""How often the loop of the deterministic kernel runs, which depends on where the samples lie: counted on the CPU."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from litedetr.kernels.bench.workloads import Workload
from litedetr.kernels.fused.launch import Segments, Shape, rule
from litedetr.kernels.fused.patches import PARTS, Patches, patches_of
from litedetr.kernels.fused.sizes import Sizes
from litedetr.kernels.points import SamplingPoints


@dataclass(frozen=True)
class Trips:
    """Of all four launches of kernels/fused/segments.py."""

    programs: int
    busy: int  # programs that have samples: only they prepare for the loop
    steps: int  # of the loop, over all programs
    longest: int  # steps of one program
    samples: int  # B * Q * M * L * P, those outside of their level too

    def per_sample(self, idle: float, busy: float, step: float) -> float:
        """Warp instructions of a sample, from those of a program without samples, with some, and of a step."""
        return (idle * (self.programs - self.busy) + busy * self.busy + step * self.steps) / self.samples


def trips_of(workload: Workload, segments: Segments | None = None) -> Trips:
    """segments: None for the rule's."""
    inputs = workload.inputs("cpu")
    segments = segments or rule(Shape.of("segments", inputs))
    counts = samples_of_patches(inputs.points, patches_of(Sizes.of(inputs), segments.patch_samples))
    steps = (counts + segments.samples - 1) // segments.samples
    return Trips(
        programs=counts.numel(),
        busy=int((counts > 0).sum()),
        steps=int(steps.sum()),
        longest=int(steps.max()),
        samples=inputs.points.offsets.numel() // 2,
    )


@torch.no_grad()
def samples_of_patches(points: SamplingPoints, patches: Patches) -> Tensor:
    """(B * M * squares * PARTS,), as the backward kernel numbers them; valid sizes are left out."""
    batch, _, heads, levels, *_ = points.offsets.shape
    first, across, side = (column.view(-1, 1) for column in patches.levels.long().unbind(1))  # (L, 1) each
    size = points.level_sizes(points.reference).view(1, 1, 1, levels, 1, 2)
    cell = points.pixel_locations().floor()  # (B, Q, M, L, P, 2), (x, y)
    touches = ((cell >= -1) & (cell < size)).all(-1)
    column, row = ((cell + 1).clamp(min=0).long() // side.unsqueeze(-1)).unbind(-1)
    square = first + (row // 2) * across + column // 2
    head = torch.arange(batch * heads).view(batch, 1, heads, 1, 1)
    number = ((head * patches.num_squares + square) * PARTS + row % 2 * 2 + column % 2)[touches]
    return torch.bincount(number, minlength=batch * heads * patches.num_squares * PARTS)
