"""What a job's kernels need and execute: resources, and instructions of a warp for each sample.

A sample is one point of one level of one head of one query.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from litedetr.kernels.bench.disassembly import PIPES, disassemble
from litedetr.kernels.bench.instructions import NotCounted, count_by_pipe
from litedetr.kernels.bench.jobs import Job
from litedetr.kernels.bench.resources import Program, Resources, compile_job, most_needed
from litedetr.kernels.bench.trips import Trips, trips_of
from litedetr.kernels.fused.launch import AnyLaunch


@dataclass(frozen=True)
class Counted:
    """A compiled kernel, or several."""

    resources: Resources  # of several the most of each
    pipes: Mapping[str, float]  # instructions of a warp for each sample, by PIPES

    @property
    def total(self) -> float:
        """Instructions of a warp for each sample."""
        return sum(self.pipes.values())

    def __str__(self) -> str:
        pipes = ", ".join(f"{pipe} {self.pipes[pipe]:.1f}" for pipe in PIPES if self.pipes[pipe] >= 0.05)
        return f"{self.total:.1f} instructions a sample ({pipes})"


def count_job(job: Job, launch: AnyLaunch, target: str) -> Counted:
    """All kernels that a job launches, together. target: `sm_90`, `gfx942` and the like.

    Raises NotCounted if the loops of a kernel are not those of trips.py.
    """
    return count_programs(compile_job(job, launch, target), job, launch)


def count_programs(programs: Sequence[Program], job: Job, launch: AnyLaunch) -> Counted:
    """Those of a job, as `count_job`."""
    if job.pass_name == "segments" and any(program.target.backend != "cuda" for program in programs):
        raise NotCounted("segment_kernel: for AMD's GPUs it has a loop that is not in the source")
    samples = num_samples(job)
    each = [count_program(program, trips_of(program.kernel, job, launch), samples) for program in programs]
    pipes = {pipe: sum(counted.pipes[pipe] for counted in each) for pipe in PIPES}
    return Counted(most_needed([counted.resources for counted in each]), pipes)


def num_samples(job: Job) -> int:
    """B * Q * M * L * P."""
    work = job.workload
    return work.batch * work.queries * work.heads * len(work.shapes) * work.points


def count_program(program: Program, trips: Trips, samples: int) -> Counted:
    """trips: see `count_by_pipe`; samples: of the whole grid. Raises NotCounted."""
    warps = math.prod(program.grid) * program.warps
    counts: Counter[str] = count_by_pipe(disassemble(program.asm), trips)
    return Counted(program.resources, {pipe: counts[pipe] * warps / samples for pipe in PIPES})
