"""The table of instructions that scripts/benchmark.py prints and keeps."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from itertools import groupby, product
from pathlib import Path

import torch
import triton
from tqdm import tqdm

from litedetr.kernels.bench.comparison import choose_workloads
from litedetr.kernels.bench.disassembly import PIPES
from litedetr.kernels.bench.instruction_rows import Counting, Row
from litedetr.kernels.bench.jobs import Job
from litedetr.kernels.bench.peer_kernels import PEER_KERNELS
from litedetr.models import level_shapes
from litedetr.paths import user_path
from litedetr.tools.benchmark.benchmark_config import BenchmarkConfig
from litedetr.tools.tables import text_table, write_csv

NUM_LEVELS = 4
PASSES = ("forward", "backward", "segments")
COLUMNS = (  # field of a Row, format
    ("total", ">7.1f"),
    *((pipe, f">{max(len(pipe) + 2, 6)}.1f") for pipe in PIPES),
    ("registers", ">11"),
    ("warps", ">7"),
    ("spilled", ">9"),
)


def count(config: BenchmarkConfig, path: Path) -> Iterator[str]:
    """What to print. Rows that the file has already stay in it and in the table, unless they are counted anew."""
    how = config.instructions
    counting = Counting(how.target, how.name, how.peers, how.sources and user_path(how.sources))
    rows = _read(path)
    for found in tqdm(counting.rows(_jobs(config)), unit=" kernels", leave=False, disable=None):
        if isinstance(found, Row):
            rows[found.key] = found
        else:
            yield found
    yield f"\nWarp instructions for each sample on {how.target}, Triton {triton.__version__}\n"
    shown = [row for row in rows.values() if (row.target, row.triton) == (how.target, triton.__version__)]
    yield instruction_table(shown)
    yield f"\n{write_csv(path, [field.name for field in fields(Row)], map(asdict, rows.values()))}"


def _jobs(config: BenchmarkConfig) -> list[Job]:
    kernels, how = config.kernels, config.instructions
    sizes = {name: getattr(kernels, name) for name in ("heads", "channels", "points")}
    sizes |= {"shapes": level_shapes(NUM_LEVELS, config.image_size), "batch": kernels.batch_size}
    dtypes = tuple(getattr(torch, name) for name in how.dtypes)
    workloads = [workload for _, workload in choose_workloads(dtypes, how.scores, how.queries, ("grid",), **sizes)]
    return [Job(workload, pass_name) for pass_name, workload in product(how.passes, workloads)]


def _read(path: Path) -> dict[tuple[object, ...], Row]:
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {row.key: row for row in map(Row.of_record, csv.DictReader(file))}


def instruction_table(rows: Sequence[Row]) -> str:
    """A part for each pass, score and number of queries: half precision first, and of each precision ours first."""
    names, forms = zip(*COLUMNS, strict=True)
    parts = []
    for what, found in groupby(sorted(rows, key=_rank), lambda row: (row.pass_name, row.score, row.queries)):
        columns = [(", ".join(map(str, what)), "<34"), *zip(names, forms, strict=True)]
        lines = [(f"{row.who} {row.dtype}", *(getattr(row, name) for name in names)) for row in found]
        parts.append(text_table(columns, lines))
    return "\n\n".join(parts)


def _rank(row: Row) -> tuple[object, ...]:
    of_part = PASSES.index(row.pass_name), row.score, row.queries
    return *of_part, row.dtype == "float32", row.who in PEER_KERNELS
