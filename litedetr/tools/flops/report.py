"""Costs as text and as CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from litedetr.tools.flops.count import Cost
from litedetr.tools.flops.paper import Row, Table

COLUMNS = ("total", "backbone", "encoder", "rest", "decoder", "parameters")
NAME, CELL, DIFFERENCE = 31, 6, 7  # widths of names, figures and percentages
COMPARED = ("total", "encoder")  # whose difference is printed


def table_text(table: Table) -> str:
    """For every column the paper's figure, ours, and for some how much ours is above it."""
    return "\n".join([table.paper.name, *_heading(), *(_line(row) for row in table.rows)])


def _heading() -> list[str]:
    above, below = [" " * (NAME + CELL)], [f"{'':{NAME}}{'AP':>{CELL}}"]
    for column in COLUMNS:
        extra = DIFFERENCE if column in COMPARED else 0
        label = "params, M" if column == "parameters" else column
        above.append(f"  {label:>{2 * CELL}}{'':{extra}}")
        below.append(f"  {'paper':>{CELL}}{'ours':>{CELL}}{'':{extra}}")
    return ["".join([*above, "  operators"]), "".join([*below, f"{'ours':>11}"])]


def _line(row: Row) -> str:
    cells = [f"{row.paper.name:{NAME}}{_number(row.paper.ap):>{CELL}}"]
    for column in COLUMNS:
        theirs, ours = getattr(row.paper.paper, column), _ours(row.cost, column)
        cells.append(f"  {_number(theirs):>{CELL}}{_number(ours):>{CELL}}")
        if column in COMPARED:
            cells.append(f"{'' if None in (theirs, ours) else f'{ours / theirs - 1:+.1%}':>{DIFFERENCE}}")
    operators = None if row.cost is None else row.cost.total.operators
    return "".join([*cells, f"{_number(operators):>11}", f"  {row.note}" if row.note else ""])


def cost_text(cost: Cost) -> str:
    """One detector, part by part."""
    lines = [f"{'':18}{'GFLOPs':>10}{'operators':>11}{'parameters M':>14}"]
    for name, part in [*cost.parts.items(), ("total", cost.total)]:
        label = name.replace("_", " ")
        lines.append(f"{label:18}{part.published:10.2f}{part.operators:11.2f}{part.parameters:14.2f}")
    return "\n".join(lines)


def shares_text(ours: dict[str, float], paper: dict[str, float] | None = None) -> str:
    """Percent of the tokens on each level, beside Table 2's."""
    lines = ["".join([f"{'':10}", *(f"{name:>8}" for name in ours)])]
    if paper is not None:
        lines.append("".join([f"{'paper':10}", *(f"{paper[name]:8.2f}" for name in ours)]))
    lines.append("".join([f"{'ours':10}", *(f"{share:8.2f}" for share in ours.values())]))
    return "\n".join(lines)


def write_csv(path: Path, tables: Iterable[Table], image_size: Sequence[int]) -> None:
    """A line for each row of each table; empty cells where a figure is not known."""
    records = [_record(table, row, image_size) for table in tables for row in table.rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(records)


def _record(table: Table, row: Row, image_size: Sequence[int]) -> dict[str, object]:
    overrides = row.paper.overrides
    record = {
        "table": table.paper.number,
        "name": row.paper.name,
        "series": row.paper.series,
        "settings": None if overrides is None else " ".join(overrides),
        "height": image_size[0],
        "width": image_size[1],
        "ap": row.paper.ap,
    }
    for column in COLUMNS:
        unit = "m" if column == "parameters" else "gflops"
        record |= {f"paper_{column}_{unit}": getattr(row.paper.paper, column)}
        record |= {f"{column}_{unit}": _rounded(_ours(row.cost, column))}
    record |= {"operators_gflops": _rounded(None if row.cost is None else row.cost.total.operators)}
    return record | {"note": row.note}


def _ours(cost: Cost | None, column: str) -> float | None:
    if cost is None:
        return None
    return cost.total.parameters if column == "parameters" else cost[column].published


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
