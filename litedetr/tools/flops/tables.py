"""The paper's tables: its own figures, which configuration of ours each row is, and our costs beside them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from litedetr.tools.flops.count import Cost
from litedetr.tools.tables import text_table, write_csv

COLUMNS = ("total", "backbone", "encoder", "rest", "decoder", "parameters")
COMPARED = ("total", "encoder")  # whose difference is printed
JOINT = "encoder.update=joint"  # as in the published code


@dataclass(frozen=True)
class Figures:
    """GFLOPs and millions of parameters as printed; None if the table does not say."""

    total: float | None = None
    backbone: float | None = None
    encoder: float | None = None
    rest: float | None = None  # all but backbone and encoder, which Table 1 calls the decoder
    decoder: float | None = None  # the decoder and its heads only
    parameters: float | None = None


@dataclass(frozen=True)
class PaperRow:
    """A system of a table."""

    name: str  # as printed
    paper: Figures
    overrides: tuple[str, ...] | None = None  # what makes it here; None: a system that this project does not have
    ap: float | None = None  # box AP on COCO val2017
    series: str | None = None  # the plot's curve that it is a point of


@dataclass(frozen=True)
class PaperTable:
    """A table, or a list of other figures."""

    number: int | None  # None: not the paper's own
    title: str
    rows: tuple[PaperRow, ...]

    @property
    def name(self) -> str:
        return self.title if self.number is None else f"Table {self.number}: {self.title}"


@dataclass(frozen=True)
class Paper:
    """What conf/paper.yaml holds."""

    source: str  # of the figures
    token_shares: dict[str, float]  # Table 2, percent of the tokens on each level
    tables: tuple[PaperTable, ...]

    def find(self, overrides: Iterable[str]) -> PaperRow | None:
        """The row of the system with these settings and an AP, of Figure 1's series if it is of one; None without.

        The form of the encoder's update, which the paper's AP belongs to in whichever form, is left out of account.
        """
        wanted = set(overrides) - {JOINT}
        rows = [row for table in self.tables for row in table.rows if row.overrides is not None and row.ap is not None]
        fitting = [row for row in rows if set(row.overrides) - {JOINT} == wanted]
        return min(fitting, key=lambda row: row.series is None, default=None)


@dataclass(frozen=True)
class CountedRow:
    """A row of the paper with our cost, or without one for the reason in `note`."""

    paper: PaperRow
    cost: Cost | None
    note: str = ""


@dataclass(frozen=True)
class CountedTable:
    """A table of the paper with our costs."""

    paper: PaperTable
    rows: tuple[CountedRow, ...]


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
