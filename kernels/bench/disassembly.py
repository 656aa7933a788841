"""The instructions of a compiled kernel in the order of its code, each with the pipe that executes it.

NVIDIA's are read from SASS, by the cuobjdump that comes with Triton; AMD's from the assembly that Triton keeps. Code
behind the last exit is left out: it holds what runs rarely, such as a division's slow path or warps that have diverged.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton

PIPES = ("fma", "alu", "xu", "loads", "stores", "atomics", "shared", "shuffles", "sync", "other")

# The first that matches the whole of a name counts. IMAD is of the pipe fma, also where it only moves a register.
# other: branches, uniform and scalar instructions, constants, special registers, spills, double precision.
SASS_PIPES = (
    ("fma", r"FFMA2?|FADD2?|FMUL2?|H(FMA|ADD|MUL)2|IMAD"),
    ("xu", r"MUFU|[FI]2[FI]|FRND|POPC|FLO|BREV"),
    ("loads", r"LDG|LD|LDGSTS"),
    ("stores", r"STG|ST"),
    ("atomics", r"REDG?|ATOMG?"),
    ("shared", r"LDS|STS|LDSM|STSM|ATOMS"),
    ("shuffles", r"SHFL"),
    ("sync", r"BAR|WARPSYNC|DEPBAR|LDGDEPBAR|MEMBAR|BSSY|BSYNC|SYNCS|VOTE"),
    ("other", r"U\w+|LDL|STL|LDCU?|D(FMA|ADD|MUL|SETP)|BRA|BRX|JMP|EXIT|CALL|RET|BREAK|BMOV|S2U?R|R2UR|B2R|ELECT|CS2R"),
    ("alu", r"\w+"),
)
AMD_PIPES = (
    ("shuffles", r"ds_(b?permute|swizzle)\w*|v_permlane\w*|v_\w+_dpp"),
    ("shared", r"ds_\w+"),
    ("atomics", r"(global|flat|buffer)_atomic_\w+"),
    ("loads", r"(global|flat|buffer)_load_\w+"),
    ("stores", r"(global|flat|buffer)_store_\w+"),
    ("sync", r"s_barrier|s_waitcnt\w*"),
    ("xu", r"v_(exp|log|rcp|rsq|sqrt|sin|cos)_\w+"),
    ("fma", r"v_(pk_)?(fma\w*|mad|mac|mul|add|sub)_(legacy_)?f(16|32)\w*"),
    ("alu", r"v_\w+"),
    ("other", r"\w+"),
)
ROW = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z]\w*)([^;]*);")  # address, name, the rest
JUMP = re.compile(r"\b0x([0-9a-f]+)")
AMD_BRANCH = re.compile(r"s_c?branch\w*")


@dataclass(frozen=True)
class Instruction:
    """One instruction of a kernel."""

    address: int  # grows along the code
    name: str  # without modifiers on NVIDIA: FFMA, LDG
    pipe: str  # one of PIPES
    target: int | None = None  # the address that a branch goes to


def disassemble(asm: Mapping[str, Any]) -> list[Instruction]:
    """Of what Triton keeps of a compiled kernel."""
    if "cubin" in asm:
        return parse_sass(cuobjdump(asm["cubin"], "-sass"))
    return parse_amdgcn(asm["amdgcn"])


def cuobjdump(cubin: bytes, option: str) -> str:
    """What Triton's own copy of the tool prints."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        return subprocess.run([tool, option, file.name], check=True, capture_output=True, text=True).stdout


def parse_sass(text: str) -> list[Instruction]:
    """Up to the last EXIT."""
    found = []
    for match in ROW.finditer(text):
        name, rest = match[2], match[3]
        jump = JUMP.search(rest) if name == "BRA" else None
        if name != "NOP":
            pipe = _pipe(name, SASS_PIPES)
            found.append(Instruction(int(match[1], 16), name, pipe, int(jump[1], 16) if jump else None))
    return _up_to_last("EXIT", found)


def parse_amdgcn(text: str) -> list[Instruction]:
    """Up to the last s_endpgm. An address is the number of a line."""
    lines = [line.partition(";")[0].strip() for line in text.splitlines()]
    labels = {line[:-1]: number for number, line in enumerate(lines) if line.endswith(":")}
    return _up_to_last("s_endpgm", list(_amd_instructions(lines, labels)))


def _amd_instructions(lines: list[str], labels: Mapping[str, int]) -> Iterator[Instruction]:
    for number, line in enumerate(lines):
        name, _, operands = line.partition(" ")
        if re.fullmatch(r"(s|v|ds|global|flat|buffer|scratch)_\w+", name) and name != "s_nop":
            target = labels[operands.strip()] if AMD_BRANCH.fullmatch(name) else None
            yield Instruction(number, name, _pipe(name, AMD_PIPES), target)


def _pipe(name: str, pipes: tuple[tuple[str, str], ...]) -> str:
    return next(pipe for pipe, pattern in pipes if re.fullmatch(pattern, name))


def _up_to_last(name: str, instructions: list[Instruction]) -> list[Instruction]:
    last = max(place for place, instruction in enumerate(instructions) if instruction.name == name)
    return instructions[: last + 1]
