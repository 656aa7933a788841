"""Registers and spills of the kernels, compiled for a GPU that need not be here."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from litedetr.kernels.bench.jobs import Job
from litedetr.kernels.fused.backend import backward, forward
from litedetr.kernels.fused.call import Grid, Launcher
from litedetr.kernels.fused.launch import Launch, Pass, Segments, Shape, rule
from litedetr.kernels.fused.segments import segment_kernel

OPTIONS = ("num_stages", "maxnreg")  # None: as Triton likes


@dataclass(frozen=True)
class Resources:
    """What one thread of a kernel needs."""

    kernel: str
    registers: int
    spilled: int  # bytes of local memory, 0 if all fits in registers


def resources(job: Job, launch: Launch | Segments, target: str, deterministic: bool = False) -> list[Resources]:
    """Of every kernel that a job launches. target: `sm_90`, `gfx942` and the like."""
    compiler = Compiler(parse_target(target))
    with compiling_for(compiler.target):
        walk(job, launch, compiler, deterministic)
    return compiler.resources


def walk(job: Job, launch: Launch | Segments, launcher: Launcher, deterministic: bool = False) -> None:
    """Hand every kernel of a job to `launcher` with arguments that have no memory.

    Of the pass `segments` only its own kernel.
    """
    inputs = job.workload.inputs("meta")
    only = partial(_launch_own, job.pass_name, launcher)
    saved = forward(inputs, launch if job.pass_name == "forward" else rule(Shape.of("forward", inputs)), only)
    if job.pass_name == "backward":
        backward(inputs, saved, torch.empty_like(saved.out), launch, deterministic, False, launcher)
    elif job.pass_name == "segments":
        blocks = rule(Shape.of("backward", inputs))
        backward(inputs, saved, torch.empty_like(saved.out), blocks, True, False, only, launch)


def _launch_own(pass_name: Pass, launcher: Launcher, kernel, *arguments: object, **constants: object) -> None:
    """Leaves out the kernels that belong to other passes."""
    if pass_name == "forward" or (pass_name == "segments" and kernel is segment_kernel):
        launcher(kernel, *arguments, **constants)


def parse_target(name: str) -> GPUTarget:
    """Raises ValueError where the name is no NVIDIA (sm_NN) or AMD (gfxNNN) architecture."""
    if match := re.fullmatch(r"sm_(\d+)", name):
        return GPUTarget("cuda", int(match[1]), 32)
    if re.fullmatch(r"gfx\w+", name):
        return GPUTarget("hip", name, 64 if name.startswith("gfx9") else 32)
    raise ValueError(f"target: expected sm_<number> or gfx<number>, got {name!r}")


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

    target: GPUTarget

    def get_current_device(self) -> GPUTarget:
        return self.target  # by which a kernel remembers its programs

    def get_current_stream(self, device: GPUTarget) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return self.target


@dataclass(frozen=True)
class Compiler:
    """A launcher (kernels/fused/call.py) that only compiles, as a launch would. Needs `compiling_for`."""

    target: GPUTarget
    programs: list[tuple[Any, Mapping[str, Any]]] = field(default_factory=list)  # kernels, and what Triton made of them

    def __call__(self, kernel, grid: Grid, *arguments: object, **constants: object) -> None:
        absent = ["maxnreg"] if self.target.backend != "cuda" else []
        absent += [name for name in OPTIONS if constants.get(name) is None]  # which Triton chooses
        given = {name: value for name, value in constants.items() if name not in absent}
        self.programs.append((kernel, kernel.warmup(*arguments, grid=grid, **given).asm))

    @property
    def resources(self) -> list[Resources]:
        read = _of_nvidia if self.target.backend == "cuda" else _of_amd
        return [Resources(kernel.fn.__name__, *read(asm)) for kernel, asm in self.programs]


def _of_nvidia(asm: dict) -> tuple[int, int]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(asm["cubin"])
        file.flush()
        tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        text = subprocess.run([tool, "-res-usage", file.name], check=True, capture_output=True, text=True).stdout
    return _number(r"REG:(\d+)", text), _number(r"STACK:(\d+)", text) + _number(r"LOCAL:(\d+)", text)


def _of_amd(asm: dict) -> tuple[int, int]:
    text = asm["amdgcn"]
    return _number(r"\.vgpr_count:\s*(\d+)", text), _number(r"\.private_segment_fixed_size:\s*(\d+)", text)


def _number(pattern: str, text: str) -> int:
    return int(re.search(pattern, text)[1])
