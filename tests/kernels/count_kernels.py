"""Compiles two kernels for a target and prints what test_instructions.py checks, as JSON."""

import json
import math
import sys

import torch
import triton
import triton.language as tl

from litedetr.kernels.bench.counts import count_job, count_program
from litedetr.kernels.bench.jobs import Job
from litedetr.kernels.bench.resources import Compiler, compile_job, compiling_for, parse_target
from litedetr.kernels.bench.workloads import Workload
from litedetr.kernels.fused.launch import rule


@triton.jit
def chase(first_ptr, next_ptr, out_ptr):
    """A loop that no compiler unrolls."""
    place = tl.load(first_ptr)
    while place >= 0:
        place = tl.load(next_ptr + place)
    tl.store(out_ptr, place)


def main(target: str) -> None:
    pointer = torch.empty(1, dtype=torch.int32, device="meta")
    compiler = Compiler(parse_target(target))
    with compiling_for(compiler.target):
        compiler(chase, (1, 1, 1), pointer, pointer, pointer, num_warps=1)
    job = Job(Workload("deformable", torch.bfloat16, (1, 4)), "backward")
    backward = count_job(job, rule(job.shape), target)
    found = {"chase": count_program(*compiler.programs, trips=(10,), samples=1).pipes, "backward": backward.pipes}
    if target.startswith("sm_"):
        job = Job(job.workload, "segments")
        program, *_ = compile_job(job, rule(job.shape), target)
        programs = math.prod(program.grid)
        none, one = (count_program(program, trips, programs).pipes for trips in ((0, 0), (1, 0)))
        found["step"] = {pipe: one[pipe] - none[pipe] for pipe in one}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
