"""Registers and spills of the kernels, compiled for a GPU that need not be here."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from litedetr.kernels.bench.jobs import Job
from litedetr.kernels.fused.backend import backward, forward
from litedetr.kernels.fused.call import Grid, Launcher
from litedetr.kernels.fused.launch import Launch, Pass, Segments, Shape, rule
from litedetr.kernels.fused.limits import MOST_INT32
from litedetr.kernels.fused.segments import segment_kernel

TYPES = {
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
    torch.float64: "fp64",
    torch.int32: "i32",
    torch.int64: "i64",
}
TRITON = tuple(map(int, triton.__version__.split(".")[:2]))
ALIGNED = [["tt.divisibility", 16]]
OPTIONS = ("num_warps", "num_stages", "enable_fp_fusion", "maxnreg")


@dataclass(frozen=True)
class Resources:
    """What one thread of a kernel needs."""

    kernel: str
    registers: int
    spilled: int  # bytes of local memory, 0 if all fits in registers


def resources(job: Job, launch: Launch | Segments, target: str, deterministic: bool = False) -> list[Resources]:
    """Of every kernel that a job launches. target: `sm_90`, `gfx942` and the like."""
    compiler = Compiler(parse_target(target))
    walk(job, launch, compiler, deterministic)
    return compiler.results


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


@dataclass(frozen=True)
class Compiler:
    """A launcher (kernels/fused/call.py) that compiles for `target` and reads what the assembler says."""

    target: GPUTarget
    results: list[Resources] = field(default_factory=list)

    def __call__(self, kernel, grid: Grid, *arguments: object, **constants: object) -> None:
        options = given_options({name: constants.pop(name, None) for name in OPTIONS}, self.target)
        values = dict(zip(kernel.arg_names, arguments, strict=False)) | constants
        signature = {name: _type(values[name], name in constants) for name in kernel.arg_names}
        compiled = triton.compile(_source(kernel, signature, values), target=self.target, options=options)
        self.results.append(resources_of(kernel, compiled.asm, self.target))


def given_options(options: dict[str, object], target: GPUTarget) -> dict[str, object]:
    """Without those that Triton chooses or the target does not know."""
    unknown = () if target.backend == "cuda" else ("maxnreg",)
    return {name: value for name, value in options.items() if value is not None and name not in unknown}


def resources_of(kernel, asm: Mapping[str, Any], target: GPUTarget) -> Resources:
    """asm: what Triton compiled."""
    read = _of_nvidia if target.backend == "cuda" else _of_amd
    return Resources(kernel.fn.__name__, *read(asm))


def _source(kernel, signature: dict[str, str], values: dict[str, object]) -> ASTSource:
    """A kernel whose constants and multiples of 16 are known; Triton 3.2 takes them in a form of its own."""
    names = [name for name in signature if signature[name] == "constexpr"]
    aligned = [i for i, name in enumerate(signature) if _is_aligned(values[name], signature[name])]
    if TRITON < (3, 3):
        attributes = triton.backends.compiler.AttrsDescriptor.from_hints(dict.fromkeys(aligned, 16))
        typed = {name: kind for name, kind in signature.items() if kind != "constexpr"}
        return ASTSource(kernel, typed, {name: values[name] for name in names}, attributes)
    fixed = {(kernel.arg_names.index(name),): values[name] for name in names}
    return ASTSource(kernel, signature, fixed, {(i,): ALIGNED for i in aligned})


def _type(value: object, is_constant: bool) -> str:
    """As Triton would type the argument of a launch."""
    if isinstance(value, Tensor):
        return "*" + TYPES[value.dtype]
    if is_constant or value is None or value == 1:
        return "constexpr"
    return "i32" if value <= MOST_INT32 else "i64"


def _is_aligned(value: object, kind: str) -> bool:
    if kind == "constexpr":
        return False
    return isinstance(value, Tensor) or value % 16 == 0


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
