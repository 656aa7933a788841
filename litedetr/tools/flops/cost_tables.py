"""Costs as text and as CSV."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from litedetr.tools.flops.count import Cost
from litedetr.tools.flops.paper_tables import CountedRow, CountedTable
from litedetr.tools.tables import text_table, write_csv

COLUMNS = ("total", "backbone", "encoder", "rest", "decoder", "parameters")
COMPARED = ("total", "encoder")  # whose difference is printed


def table_text(table: CountedTable) -> str:
    """For every column the paper's figure, ours, and for some how much ours is above it."""
    above, columns = [" " * 37], [("", "<31"), ("AP", ">6.1f")]
    for name in COLUMNS:
        differences = [("", ">7")] if name in COMPARED else []
        above.append(f"  {'params, M' if name == 'parameters' else name:>12}{' ' * 7 * len(differences)}")
        columns += [("paper", ">8.1f"), ("ours", ">6.1f"), *differences]
    columns += [("ours", ">11.1f"), ("", "")]
    lines = text_table(columns, map(_line, table.rows))
    return "\n".join([table.paper.name, "".join([*above, "  operators"]), lines])


def _line(row: CountedRow) -> list[object]:
    cells: list[object] = [row.paper.name, row.paper.ap]
    for name in COLUMNS:
        theirs, ours = getattr(row.paper.paper, name), _ours(row.cost, name)
        cells += [theirs, ours]
        if name in COMPARED:
            cells.append("" if None in (theirs, ours) else f"{ours / theirs - 1:+.1%}")
    return [*cells, row.cost and row.cost.total.operators, f"  {row.note}" if row.note else ""]


def cost_text(cost: Cost) -> str:
    """One detector, part by part."""
    columns = [("", "<18"), ("GFLOPs", ">10.2f"), ("operators", ">11.2f"), ("parameters M", ">14.2f")]
    parts = [*cost.parts.items(), ("total", cost.total)]
    return text_table(columns, [(n.replace("_", " "), p.published, p.operators, p.parameters) for n, p in parts])


def shares_text(ours: dict[str, float], paper: dict[str, float] | None = None) -> str:
    """Percent of the tokens on each level, beside Table 2's."""
    lines = [] if paper is None else [("paper", *(paper[name] for name in ours))]
    return text_table([("", "<10"), *((name, ">8.2f") for name in ours)], [*lines, ("ours", *ours.values())])


def write_costs(path: Path, tables: Iterable[CountedTable], image_size: Sequence[int]) -> Path:
    """A line for each row of each table; empty cells where a figure is not known."""
    records = [_record(table, row, image_size) for table in tables for row in table.rows]
    return write_csv(path, records[0], records)


def _record(table: CountedTable, row: CountedRow, image_size: Sequence[int]) -> dict[str, object]:
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
    record |= {"operators_gflops": _rounded(row.cost and row.cost.total.operators)}
    return record | {"note": row.note}


def _ours(cost: Cost | None, column: str) -> float | None:
    if cost is None:
        return None
    return cost.total.parameters if column == "parameters" else cost[column].published


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
