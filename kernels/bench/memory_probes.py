"""Kernels that do one thing that bounds the attentions on a GPU: gather rows of a table, or add to them by atomics."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import triton
import triton.language as tl
from torch import Tensor

from litedetr.kernels.fused.call import Grid, Launcher, launch_kernel

CHANNELS = 32  # of a head, in a table (tokens, heads, channels)
BLOCK_ROWS = 64  # that a program takes at a time
WARPS = 4
REPEATS = 64  # blocks that a program gathers, one after the other
INDICES = 1 << 16  # of tokens that are gathered
PROGRAMS_PER_MULTIPROCESSOR = 32
SAMPLES_PER_CELL = 4  # neighbouring rows of a raster, as neighbouring queries read them

Where = Literal["random", "coarse", "raster"]


@triton.jit
def add_kernel(
    table_ptr, rows_ptr, num_rows,
    CHANNELS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_ROWS: tl.constexpr, ATOMIC: tl.constexpr,
):  # fmt: skip
    """Adds to, or stores, rows (CHANNELS) of a table, COLUMNS channels at a time."""
    line = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    exists = line < num_rows
    row = tl.load(rows_ptr + line, exists, 0).to(tl.int64)
    channel = tl.arange(0, COLUMNS)
    ones = tl.full((BLOCK_ROWS, COLUMNS), 1.0, table_ptr.dtype.element_ty)
    for part in tl.static_range(CHANNELS // COLUMNS):
        pointer = table_ptr + row[:, None] * CHANNELS + (part * COLUMNS + channel)[None, :]
        if ATOMIC:
            tl.atomic_add(pointer, ones, exists[:, None], sem="relaxed")
        else:
            tl.store(pointer, ones, exists[:, None])


@triton.jit
def gather_kernel(
    table_ptr, tokens_ptr, out_ptr, num_tokens,
    TABLE_HEADS: tl.constexpr, WORDS: tl.constexpr, HEADS: tl.constexpr, BLOCK_ROWS: tl.constexpr,
    REPEATS: tl.constexpr,
):  # fmt: skip
    """Sums rows of WORDS 32-bit words; neighbouring lines read one head, or HEADS heads in turn."""
    block = tl.arange(0, BLOCK_ROWS)
    line = tl.program_id(0) * BLOCK_ROWS + block
    word = tl.arange(0, WORDS)
    head = line % HEADS
    total = tl.zeros((BLOCK_ROWS, WORDS), tl.int32)
    for step in range(REPEATS):
        token = tl.load(tokens_ptr + (line + step * BLOCK_ROWS) % num_tokens).to(tl.int64)
        total += tl.load(table_ptr + (token * TABLE_HEADS + head)[:, None] * WORDS + word[None, :])
    tl.store(out_ptr + line[:, None] * WORDS + word[None, :], total)


@dataclass(frozen=True)
class Sizes:
    """Of the tables and of what is read and added."""

    tokens: int = 22223  # of the whole table
    coarse_tokens: int = 273  # of its coarsest level
    heads: int = 8  # M
    rows: int = 1 << 21  # that are added to
    cached_tokens: int = 256  # that a first-level cache holds
    programs: int = 132 * PROGRAMS_PER_MULTIPROCESSOR  # of a gather
    repeats: int = REPEATS  # blocks that each of them reads


TINY = Sizes(tokens=64, coarse_tokens=8, heads=2, rows=256, cached_tokens=16, programs=2, repeats=2)


@dataclass(frozen=True)
class Probe:
    """One launch."""

    kind: Literal["atomics", "gathers"]
    what: str  # how it adds or reads
    where: str  # which rows of the table
    kernel: Any  # the kernel itself, with what it is launched with
    grid: Grid
    arguments: tuple[object, ...]
    constants: dict[str, object]
    lanes: int  # numbers that it adds
    bytes: int  # that it reads or writes in the table

    def __call__(self, launcher: Launcher = launch_kernel) -> None:
        launcher(self.kernel, self.grid, *self.arguments, **self.constants, num_warps=WARPS)


@dataclass(frozen=True)
class Layout:
    """How rows are added to."""

    name: str
    dtype: torch.dtype  # of what is added
    columns: int  # at a time
    atomic: bool = True  # False: plain stores, to compare with


LAYOUTS = (
    Layout("fp32, whole rows", torch.float32, CHANNELS),
    Layout("fp32, half rows twice", torch.float32, CHANNELS // 2),
    Layout("bf16, whole rows", torch.bfloat16, CHANNELS),
    Layout("fp32, stores", torch.float32, CHANNELS, atomic=False),
)


def atomics(sizes: Sizes, device: torch.device) -> Iterator[Probe]:
    """Additions to rows of random tokens, of the coarsest level's (many to one) and of a raster's."""
    for where in ("random", "coarse", "raster"):
        rows = _rows(where, sizes).to(device)
        for layout in LAYOUTS:
            if device.type == "cpu" and layout.dtype == torch.bfloat16:  # the interpreter has no such atomics
                continue
            table = torch.zeros(sizes.tokens * sizes.heads * CHANNELS, dtype=layout.dtype, device=device)
            constants = {"CHANNELS": CHANNELS, "COLUMNS": layout.columns, "ATOMIC": layout.atomic}
            yield Probe(
                kind="atomics",
                what=layout.name,
                where=where,
                kernel=add_kernel,
                grid=(triton.cdiv(sizes.rows, BLOCK_ROWS), 1, 1),
                arguments=(table, rows, sizes.rows),
                constants=constants | {"BLOCK_ROWS": BLOCK_ROWS},
                lanes=sizes.rows * CHANNELS,
                bytes=sizes.rows * CHANNELS * table.element_size(),
            )


def _rows(where: Where, sizes: Sizes) -> Tensor:
    """(rows,) int32, rows of the table (tokens * heads, channels)."""
    generator = torch.Generator().manual_seed(0)
    most = (sizes.coarse_tokens if where == "coarse" else sizes.tokens) * sizes.heads
    if where == "raster":
        return (torch.arange(sizes.rows) // SAMPLES_PER_CELL * sizes.heads % most).to(torch.int32)
    return torch.randint(most, (sizes.rows,), generator=generator, dtype=torch.int32)


def gathers(sizes: Sizes, device: torch.device) -> Iterator[Probe]:
    """Rows of bf16, 64 bytes each: of few tokens, which a first-level cache holds, or of all; and of one head or of two
    in turn, which share a line of 128 bytes.
    """
    words = CHANNELS // 2
    generator = torch.Generator().manual_seed(0)
    table = torch.randint(99, (sizes.tokens * sizes.heads * words,), generator=generator, dtype=torch.int32).to(device)
    lines = sizes.programs * BLOCK_ROWS
    out = torch.empty(lines * words, dtype=torch.int32, device=device)
    for where, most in (("few tokens", sizes.cached_tokens), ("all tokens", sizes.tokens)):
        tokens = torch.randint(most, (INDICES,), generator=generator, dtype=torch.int32).to(device)
        for heads in (1, 2):
            constants = {"TABLE_HEADS": sizes.heads, "WORDS": words, "HEADS": heads, "BLOCK_ROWS": BLOCK_ROWS}
            yield Probe(
                kind="gathers",
                what="one head" if heads == 1 else f"{heads} heads in turn",
                where=where,
                kernel=gather_kernel,
                grid=(sizes.programs, 1, 1),
                arguments=(table, tokens, out, INDICES),
                constants=constants | {"REPEATS": sizes.repeats},
                lanes=0,
                bytes=lines * sizes.repeats * words * 4,
            )
