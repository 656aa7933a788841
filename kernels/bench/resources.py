"""Registers, spills and occupancy of the kernels, compiled for a GPU that need not be here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from litedetr.kernels.bench.disassembly import cuobjdump
from litedetr.kernels.bench.jobs import Job
from litedetr.kernels.bench.occupancy import resident_warps
from litedetr.kernels.fused.backend import FusedBackend
from litedetr.kernels.fused.backward import backward_kernel
from litedetr.kernels.fused.call import Grid, Launcher
from litedetr.kernels.fused.forward import forward_kernel
from litedetr.kernels.fused.launch import AnyLaunch, given
from litedetr.kernels.fused.segments import segment_kernel

OPTIONS = ("num_stages", "maxnreg")  # None: as Triton likes
KERNELS = {  # of each pass; of `backward` the second one if it is deterministic
    "forward": (forward_kernel,),
    "backward": (backward_kernel, segment_kernel),
    "segments": (segment_kernel,),
}


@dataclass(frozen=True)
class Resources:
    """What a kernel needs."""

    kernel: str  # name of its function
    registers: int  # of a thread
    spilled: int  # bytes of a thread in local memory, 0 if all fits in registers
    shared: int  # bytes of shared memory of a program
    warps: int | None  # that a multiprocessor holds at a time; None if the target's limits are not known here


@dataclass(frozen=True)
class Program:
    """A kernel as it was compiled for a launch."""

    kernel: str  # name of its function
    grid: Grid  # programs along the three axes
    warps: int  # of one program of the grid
    shared: int  # bytes of shared memory of one program of the grid
    asm: Mapping[str, Any]  # by kind: `cubin`, `amdgcn` and others
    target: GPUTarget  # it was compiled for

    @property
    def resources(self) -> Resources:
        registers, spilled = (_of_nvidia if "cubin" in self.asm else _of_amd)(self.asm)
        warps = resident_warps(target_name(self.target), self.warps, registers, self.shared)
        return Resources(self.kernel, registers, spilled, self.shared, warps)


def reason_of(error: BaseException) -> str:
    """One line on what did not compile: Triton wraps the cause in an error for each function on the way."""
    while error.__cause__ is not None:
        error = error.__cause__
    (*_, reason) = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {reason.strip()}"


def most_needed(kernels: Sequence[Resources]) -> Resources:
    """Of several launches of a kernel, which are compiled apart: the most of each resource, the fewest warps."""
    needs = {name: max(getattr(kernel, name) for kernel in kernels) for name in ("registers", "spilled", "shared")}
    warps = [kernel.warps for kernel in kernels]
    return Resources(kernels[0].kernel, **needs, warps=None if None in warps else min(warps))


def resources(job: Job, launch: AnyLaunch, target: str, deterministic: bool = False) -> list[Resources]:
    """Of every kernel that a job launches. target: `sm_90`, `gfx942` and the like."""
    return [program.resources for program in compile_job(job, launch, target, deterministic)]


def compile_job(job: Job, launch: AnyLaunch, target: str, deterministic: bool = False) -> list[Program]:
    """Every kernel that a job launches. target: `sm_90`, `gfx942` and the like."""
    compiler = Compiler(parse_target(target))
    with compiling_for(compiler.target):
        walk(job, launch, compiler, deterministic)
    return compiler.programs


def walk(job: Job, launch: AnyLaunch, launcher: Launcher, deterministic: bool = False) -> None:
    """Hand every kernel of a job to `launcher` with arguments that have no memory.

    Of the pass `segments` only its own kernel.
    """

    def launch_own(kernel, *arguments: object, **constants: object) -> None:
        if kernel in KERNELS[job.pass_name]:
            launcher(kernel, *arguments, **constants)

    inputs = job.workload.inputs("meta")
    backend = FusedBackend(given(**{job.pass_name: launch}), launch_own)
    deterministic = deterministic or job.pass_name == "segments"
    saved = backend.forward(inputs, deterministic)
    if job.pass_name != "forward":
        backend.backward(inputs, saved, torch.empty_like(saved.out), deterministic, reference_grad=False)


def parse_target(name: str) -> GPUTarget:
    """Raises ValueError where the name is no NVIDIA (sm_NN) or AMD (gfxNNN) architecture."""
    if match := re.fullmatch(r"sm_(\d+)", name):
        return GPUTarget("cuda", int(match[1]), 32)
    if re.fullmatch(r"gfx\w+", name):
        return GPUTarget("hip", name, 64 if name.startswith("gfx9") else 32)
    raise ValueError(f"target: expected sm_<number> or gfx<number>, got {name!r}")


def target_name(target: GPUTarget) -> str:
    """The inverse of `parse_target`."""
    return f"sm_{target.arch}" if target.backend == "cuda" else target.arch


@contextmanager
def compiling_for(target: GPUTarget) -> Iterator[None]:
    """Triton compiles for a GPU that need not be here."""
    driver.set_active(Target(target))
    try:
        yield
    finally:
        if torch.cuda.is_available():  # else there is no other driver
            driver.reset_active()


@dataclass(frozen=True)
class Target:
    """The part of Triton's driver that compiling needs."""

    target: GPUTarget  # to compile for

    def get_current_device(self) -> GPUTarget:
        return self.target  # by which a kernel remembers its programs

    def get_current_stream(self, device: GPUTarget) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return self.target


@dataclass(frozen=True)
class Compiler:
    """A launcher (kernels/fused/call.py) that only compiles, as a launch would. Needs `compiling_for`."""

    target: GPUTarget  # to compile for
    programs: list[Program] = field(default_factory=list)  # one for each launch so far

    def __call__(self, kernel, grid: Grid, *arguments: object, **constants: object) -> None:
        absent = ["maxnreg"] if self.target.backend != "cuda" else []
        absent += [name for name in OPTIONS if constants.get(name) is None]  # which Triton chooses
        given = {name: value for name, value in constants.items() if name not in absent}
        made = kernel.warmup(*arguments, grid=grid, **given)
        sizes = made.metadata.num_warps, made.metadata.shared
        self.programs.append(Program(kernel.fn.__name__, grid, *sizes, made.asm, self.target))

    @property
    def resources(self) -> list[Resources]:
        return [program.resources for program in self.programs]


def _of_nvidia(asm: Mapping[str, Any]) -> tuple[int, int]:
    text = cuobjdump(asm["cubin"], "-res-usage")
    return _number(r"REG:(\d+)", text), _number(r"STACK:(\d+)", text) + _number(r"LOCAL:(\d+)", text)


def _of_amd(asm: Mapping[str, Any]) -> tuple[int, int]:
    text = asm["amdgcn"]
    return _number(r"\.vgpr_count:\s*(\d+)", text), _number(r"\.private_segment_fixed_size:\s*(\d+)", text)


def _number(pattern: str, text: str) -> int:
    return int(re.search(pattern, text)[1])
