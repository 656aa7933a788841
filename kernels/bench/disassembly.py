"""The instructions of a compiled kernel in the order of its code, each with the pipe that executes it.

NVIDIA's are read from SASS, by the cuobjdump that comes with Triton; AMD's from the assembly that Triton keeps. What
only a call or a branch of diverged warps (BRA.DIV) leads to is left out: it runs rarely, such as a slow division.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton

PIPES = ("fma", "alu", "xu", "loads", "stores", "atomics", "shared", "shuffles", "sync", "other")

# The first that matches the whole of a name counts. IMAD is of the pipe fma, also where it only moves a register.
# other: branches, uniform and scalar instructions, constants, special registers, spills, tensor cores, fp64.
SASS_PIPES = (
    ("fma", r"FFMA2?|FADD2?|FMUL2?|H(FMA|ADD|MUL)2|IMAD"),
    ("xu", r"MUFU|[FI]2[FI]|FRND|POPC|FLO|BREV"),
    ("loads", r"LDG|LD|LDGSTS"),
    ("stores", r"STG|ST"),
    ("atomics", r"REDG?|ATOMG?"),
    ("shared", r"LDS|STS|LDSM|STSM|ATOMS"),
    ("shuffles", r"SHFL|C?REDUX"),
    ("sync", r"BAR|WARPSYNC|DEPBAR|LDGDEPBAR|MEMBAR|BSSY|BSYNC|SYNCS|VOTE"),
    (
        "other",
        r"U\w+|\w+MMA|LDL|STL|LDCU?|D(FMA|ADD|MUL|SETP)|BRA|BRX|JMP|EXIT|CALL|RET|BREAK|BMOV|S2U?R|R2UR|B2R|CS2R",
    ),
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
    ("other", r"v_s?mfma_\w+"),
    ("alu", r"v_\w+"),
    ("other", r"\w+"),
)
ROW = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+\s+)?([A-Z]\w*)([^;]*);")  # address, predicate, name, the rest
ADDRESS = re.compile(r"\b0x([0-9a-f]+)")
LAST = re.compile(r"(EXIT|RET|BRA 0x)")  # what is behind is not reached from here, unless a predicate stands before


@dataclass(frozen=True)
class Instruction:
    """One instruction of a kernel."""

    address: int  # grows along the code
    name: str  # without modifiers on NVIDIA: FFMA, LDG
    pipe: str  # one of PIPES
    target: int | None = None  # the address that a branch goes to
    is_last: bool = False  # the next one in the code is not reached from here


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
    """What is reached from the first instruction."""
    found = []
    for address, predicate, name, rest in ROW.findall(text):
        goes = ADDRESS.search(rest) if name == "BRA" and not rest.startswith(".DIV") else None
        target = int(goes[1], 16) if goes else None
        is_last = not predicate and LAST.match(name + rest) is not None
        if name != "NOP":
            found.append(Instruction(int(address, 16), name, _pipe(name, SASS_PIPES), target, is_last))
    return _reached(found)


def parse_amdgcn(text: str) -> list[Instruction]:
    """What is reached from the first instruction. An address is the number of a line."""
    lines = [line.partition(";")[0].strip() for line in text.splitlines()]
    labels = {line[:-1]: number for number, line in enumerate(lines) if line.endswith(":")}
    return _reached(list(_amd_instructions(lines, labels)))


def _amd_instructions(lines: Sequence[str], labels: Mapping[str, int]) -> Iterator[Instruction]:
    for number, line in enumerate(lines):
        name, _, operands = line.partition(" ")
        if re.fullmatch(r"(s|v|ds|global|flat|buffer|scratch)_\w+", name) and name != "s_nop":
            target = labels[operands.strip()] if re.fullmatch(r"s_c?branch\w*", name) else None
            yield Instruction(number, name, _pipe(name, AMD_PIPES), target, name in ("s_branch", "s_endpgm"))


def _pipe(name: str, pipes: Sequence[tuple[str, str]]) -> str:
    return next(pipe for pipe, pattern in pipes if re.fullmatch(pattern, name))


def _reached(instructions: Sequence[Instruction]) -> list[Instruction]:
    addresses = [instruction.address for instruction in instructions]
    reached, pending = set(), [0]
    while pending:
        place = pending.pop()
        if place in reached or place == len(instructions):
            continue
        reached.add(place)
        instruction = instructions[place]
        if instruction.target is not None:
            pending.append(bisect_left(addresses, instruction.target))
        if not instruction.is_last:
            pending.append(place + 1)
    return [instructions[place] for place in sorted(reached)]
