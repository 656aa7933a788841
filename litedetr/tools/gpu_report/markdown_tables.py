"""Rows as Markdown tables: whatever a step tells is shown; legend.py may say what its columns mean."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from litedetr.tools.gpu_report.legend import LEGEND
from litedetr.tools.gpu_report.plan import Row
from litedetr.tools.gpu_report.rows_file import KIND, OUTCOME, REPORT, STEP

OWN = (REPORT, STEP, KIND)  # not figures
DASH = "-"
MOST_SHOWN = 25  # rows of a table; a longer one is folded
# What Markdown takes for markup, as in the names of C++ functions; an underscore between letters is safe.
MARKUP = re.compile(r"[|*<`]|(?<!\w)_|_(?!\w)")


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
