"""The paper's tables: its own figures, and which configuration of ours each row is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from litedetr.tools.flops.count import Cost

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
