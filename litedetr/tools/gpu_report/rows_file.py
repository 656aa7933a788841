"""The file of figures: a JSON object a line, appended in one write as soon as it is known; a kill loses none."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from litedetr.tools.gpu_report.plan import Row

NAME = "rows.jsonl"
# beside a step's own figures
REPORT, STEP, KIND = "report", "step", "kind"
OUTCOME = "outcome"  # the kind of the row that says how a step ended
NOT_RUN = ("skipped", "not reached")  # an outcome's status


@dataclass(frozen=True)
class Rows:
    """Rows of one step of one report."""

    folder: Path  # where their file is
    report: str  # when it was begun, which tells reports apart
    step: str  # its name

    def append(self, row: Row) -> None:
        """On the disk when this returns. A line that a kill cut short is ended first, so that it spoils only itself.

        Raises ValueError if the row has no `kind`, or a figure has the name of a field of ours, `report` or `step`.
        """
        if {REPORT, STEP} & row.keys() or KIND not in row:
            raise ValueError(f"row: expected a {KIND}, and neither {REPORT} nor {STEP}, got {sorted(row)}")
        named = {REPORT: self.report, STEP: self.step} | row
        line = json.dumps({name: _plain(value) for name, value in named.items()}, allow_nan=False).encode() + b"\n"
        path = self.folder / NAME
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(file).st_size
            is_torn = size > 0 and os.pread(file, 1, size - 1) != b"\n"
            _write(file, b"\n" + line if is_torn else line)
            os.fsync(file)
        finally:
            os.close(file)


def _write(file: int, line: bytes) -> None:
    """All of it. A disk that fills up takes a part, and raises OSError for the rest."""
    while line:
        line = line[os.write(file, line) :]


def _plain(value: Any) -> Any:
    """JSON has no infinity and no NaN: they become text."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def read_rows(folder: Path) -> list[Row]:
    """All rows that are whole, oldest first."""
    path = folder / NAME
    if not path.exists():
        return []
    found = (_read(line) for line in path.read_text(encoding="utf-8", errors="replace").splitlines())
    return [row for row in found if row is not None]


def _read(line: str) -> Row | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None  # cut short by a kill, or none of ours
    known = isinstance(row, dict) and all(isinstance(row.get(name), str) for name in (REPORT, STEP, KIND))
    return row if known else None


def latest(rows: list[Row]) -> dict[str, list[Row]]:
    """Of each step the rows of the last report that ran it, or else of the last that wanted to: a report of other
    steps, or one whose budget was used up, completes an earlier one.
    """
    found: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        found.setdefault(row[STEP], {}).setdefault(row[REPORT], []).append(row)
    return {step: _latest(list(reports.values())) for step, reports in found.items()}


def _latest(reports: list[list[Row]]) -> list[Row]:
    return next((rows for rows in reversed(reports) if any(map(_is_of_a_run, rows))), reports[-1])


def _is_of_a_run(row: Row) -> bool:
    return row[KIND] != OUTCOME or row.get("status") not in NOT_RUN
