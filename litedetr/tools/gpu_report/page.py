"""The page that a person reads: a summary first, then every figure of every step."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from litedetr.tools.gpu_report.markdown_tables import markdown, tables
from litedetr.tools.gpu_report.plan import REHEARSAL, STEPS, Row, Step
from litedetr.tools.gpu_report.rows_file import KIND, NAME, OUTCOME, REPORT, latest, read_rows
from litedetr.tools.gpu_report.summary import card_name, summary, understood

PAGE = "report.md"
REHEARSED = "**A rehearsal on a CPU at tiny sizes: it shows that every step runs. Its figures say nothing of any GPU.**"


def write_page(folder: Path) -> Path:
    """Write the page of the rows in `folder`, with plots if matplotlib is installed. Returns its path."""
    rows = latest(read_rows(folder))
    remark = [REHEARSED] if folder.name == REHEARSAL else []
    parts = [f"# {card_name(rows) or folder.name}", _reports(rows), *remark, *summary(rows)]
    parts += _plots(rows, folder)
    parts += ["## Steps", _outcomes(rows)]
    for step in STEPS:
        found = tables(rows.get(step.name, ()))
        parts += [f"## {step.title}", *found] if found else []
    path = folder / PAGE
    unfinished = folder / f"{PAGE}.tmp"  # an interrupt leaves the page that was there
    unfinished.write_text("\n\n".join(parts) + "\n", encoding="utf-8", errors="backslashreplace")
    return unfinished.replace(path)


def _reports(rows: dict[str, list[Row]]) -> str:
    begun = sorted({row[REPORT] for found in rows.values() for row in found})
    return f"Reports of {', '.join(begun) or 'no date: there are no rows'}; every figure is a row of [{NAME}]({NAME})."


def _outcomes(rows: dict[str, list[Row]]) -> str:
    lines = [_outcome(step, rows.get(step.name, ())) for step in STEPS]
    return markdown(("step", "how it ended", "seconds", "why"), lines)


def _outcome(step: Step, rows: Sequence[Row]) -> tuple[object, ...]:
    """A report that was killed leaves a step without an end."""
    ends = [row for row in rows if row[KIND] == OUTCOME]
    if ends:
        return step.name, *(ends[-1].get(name) for name in ("status", "seconds", "reason"))
    return step.name, "cut short" if rows else "not run", None, None


def _plots(rows: dict[str, list[Row]], folder: Path) -> list[str]:
    if find_spec("matplotlib") is None:
        return []
    from litedetr.tools.gpu_report.report_plots import PLOTS, draw  # matplotlib may be missing

    def plot(name: str) -> list[str]:
        path = draw(name, rows, folder)
        return [] if path is None else [f"![{path.stem}]({path.name})"]

    return [line for name in PLOTS for line in understood(f"{name}.png", plot, name)]
