"""Rows as Markdown tables: whatever a step tells is shown; LEGEND may say what its columns mean."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from litedetr.tools.gpu_report.plan import Row
from litedetr.tools.gpu_report.rows_file import KIND, OUTCOME, REPORT, STEP

OWN = (REPORT, STEP, KIND)  # not figures
DASH = "-"
MOST_SHOWN = 25  # rows of a table; a longer one is folded
# Characters that Markdown reads as markup, as in names of C++ functions. An underscore between letters is not markup.
MARKUP = re.compile(r"[|*<`]|(?<!\w)_|_(?!\w)")
# what the columns of a table mean, by kind of row; it stands above the table, and a kind may do without
LEGEND = {
    "ceilings": (
        "What this machine reaches when it does nothing else. `copy_tb_per_s`: 10^12 bytes a second of a large copy, "
        "reads and writes counted. `..._tflop_per_s`: 10^12 operations a second of a large matrix product. "
        "`l1_tb_per_s`: 10^12 bytes a second of all first-level caches, computed from the clock, not measured."
    ),
    "tests": "Counts while the tests ran; the last row has all of them if it has an `exit_code`.",
    "attention": (
        "`run`: `forward`, or `training` for forward and backward. `milliseconds`: what `ratio` (over ours) compares, "
        "of the kind that `timed` says. `warm_ms`: replays of a CUDA graph; `cold_ms`: the same with the L2 cache "
        "overwritten before each call; `eager_ms`: calls from Python, one behind the other; `host_us`: microseconds "
        "until the host has enqueued a call. `limit_ms`: the least time that moving the bytes takes; `limit_share`: "
        "its share of the cold time. `peak_mib`: memory on top of the inputs. `out_error`, `grad_error`: relative RMS "
        "error of the output and of the worst gradient, beside the reference in fp32."
    ),
    "atomics": (
        "Rows of 32 numbers are added to a table (`stores`: written, to compare with). `where`: `random` rows of all "
        "levels, of the `coarse` one (many additions to the same row), or neighbours in `raster` order. "
        "`tera_lanes_per_s`: 10^12 numbers a second; `tb_per_s`: the same in 10^12 bytes a second."
    ),
    "gathers": (
        "Rows of 64 bytes are read from a table. `few tokens` fit into a first-level cache, `all tokens` do not. "
        "Two heads in turn share a line of 128 bytes. `tb_per_s`: 10^12 bytes a second of the rows."
    ),
    "host": (
        "`host_us`: microseconds until the host has enqueued a call; `eager_us`: microseconds a call when calls follow "
        "each other. If both are about the same, the GPU waits for the host."
    ),
    "detectors": (
        "`eager_ms`: a batch, from images on the device to detections. `graph_ms`: the same replayed from a CUDA "
        "graph; `note` says why there is none. `backbone_...`: the backbone's share. `host_us`: microseconds until the "
        "host has enqueued a batch. `peak_mib`: memory on top of weights and images. `parameters_m`: millions."
    ),
    "settings": "The first detector with one of PyTorch's settings changed; columns as above.",
    "training step": (
        "Losses, backward pass and optimiser included, on random images with ten objects each. `host_us`: microseconds "
        "until the host has enqueued a step, its waits included. `peak_mib`: memory on top of what a step begins with."
    ),
    "waits": "Operators of one step at which the host waits until the GPU is done, and the line that calls them.",
    "largest kernels": "Of one step. `ms`: all calls together; `share`: of the time of all kernels.",
    "evaluations": (
        "On the validation images, after each epoch. `seconds`: since the start. `loss`, `images_per_second` and "
        "`data_share` (share of the time spent waiting for images): of the last training step logged before."
    ),
    "compute-sanitizer": "`memcheck`: reads and writes out of bounds; `racecheck`: races. `clean`: none was found.",
    "ncu": "Hardware counters of one launch of each kernel.",
    "launches": (
        "`rule_ms`: with the launch that is used without a tuned file; `ms`: with the fastest one found; `ratio`: the "
        "first over the second. `run`: which pass."
    ),
}


def tables(rows: Sequence[Row]) -> list[str]:
    """One for each kind of row: a single row as names and values; of several, what all share stands above."""
    kinds = dict.fromkeys(row[KIND] for row in rows if row[KIND] != OUTCOME)
    return [_table(kind, [_figures(row) for row in rows if row[KIND] == kind]) for kind in kinds]


def markdown(head: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    """A table; what is no text is written by `cell`."""
    rule = ["---"] * len(head)
    return "\n".join([_line(head), f"| {' | '.join(rule)} |", *map(_line, lines)])


def _line(values: Sequence[Any]) -> str:
    return f"| {' | '.join(map(cell, values))} |"


def cell(value: Any) -> str:
    """Four digits of a number, a dash for None; nothing that would end a cell, or that Markdown would not show."""
    if value is None:
        return DASH
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return MARKUP.sub(r"\\\g<0>", str(value)).replace("\n", " ")


def _figures(row: Row) -> Row:
    return {name: value for name, value in row.items() if name not in OWN}


def _table(kind: str, rows: list[Row]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    shared = [name for name in names if all(name in row and row[name] == rows[0][name] for row in rows)]
    varying = [name for name in names if name not in shared]
    if not varying:  # a single row, or some that are equal
        table, above = markdown(("", ""), list(rows[0].items())), ""
    else:
        table = _folded(markdown(varying, [[row.get(name) for name in varying] for row in rows]), len(rows))
        above = ", ".join(f"{name} {cell(rows[0][name])}" for name in shared if rows[0][name] not in (None, ""))
    title = f"**{kind}**" + (f" ({above})" if above else "")
    return "\n\n".join(part for part in (title, LEGEND.get(kind), table) if part)


def _folded(table: str, rows: int) -> str:
    """A long table behind a line to click on, so that a page of many rows can be read."""
    return table if rows <= MOST_SHOWN else f"<details><summary>{rows} rows</summary>\n\n{table}\n\n</details>"
