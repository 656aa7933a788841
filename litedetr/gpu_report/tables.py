"""Rows as Markdown tables: whatever a step tells is shown, without a word about it here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from litedetr.gpu_report.plan import Row
from litedetr.gpu_report.rows import KIND, OUTCOME, REPORT, STEP

OWN = (REPORT, STEP, KIND)  # not figures
DASH = "-"


def tables(rows: Sequence[Row]) -> list[str]:
    """One for each kind of row: a single row as names and values; of several, what all share stands above."""
    kinds = dict.fromkeys(row[KIND] for row in rows if row[KIND] != OUTCOME)
    return [_table(kind, [_figures(row) for row in rows if row[KIND] == kind]) for kind in kinds]


def markdown(head: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    """A table; what is no text is written by `cell`."""
    rule = ["---"] * len(head)
    return "\n".join(f"| {' | '.join(map(cell, line))} |" for line in (head, rule, *lines))


def cell(value: Any) -> str:
    """Four digits of a number, a dash for None; nothing that would end a cell."""
    if value is None:
        return DASH
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value).replace("|", "\\|").replace("\n", " ")


def _figures(row: Row) -> Row:
    return {name: value for name, value in row.items() if name not in OWN}


def _table(kind: str, rows: list[Row]) -> str:
    if len(rows) == 1:
        return f"**{kind}**\n\n{markdown(('', ''), list(rows[0].items()))}"
    names = list(dict.fromkeys(name for row in rows for name in row))
    shared = [name for name in names if all(name in row and row[name] == rows[0][name] for row in rows)]
    varying = [name for name in names if name not in shared]
    above = ", ".join(f"{name} {cell(rows[0][name])}" for name in shared)
    title = f"**{kind}**" + (f" ({above})" if above else "")
    return f"{title}\n\n{markdown(varying, [[row.get(name) for name in varying] for row in rows])}"
