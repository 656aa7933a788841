"""The paper's tables: its own figures, and which configuration of ours each row is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from litedetr.settings import from_mapping
from litedetr.tools.flops.count import Cost

JOINT = "encoder.update=joint"  # as in the published code


@dataclass(frozen=True)
class Figures:
    """GFLOPs and millions of parameters as printed; None where the table does not say.

    rest: all but backbone and encoder, which Table 1 calls the decoder. decoder: the decoder and its heads alone.
    """

    total: float | None = None
    backbone: float | None = None
    encoder: float | None = None
    rest: float | None = None
    decoder: float | None = None
    parameters: float | None = None


@dataclass(frozen=True)
class PaperRow:
    """name: as printed. ap: box AP on COCO val2017. series: the plot's curve that it is a point of.

    overrides: what to tell the scripts for this system; None: a system of other people, shown as the paper has it.
    """

    name: str
    paper: Figures
    overrides: tuple[str, ...] | None = None
    ap: float | None = None
    series: str | None = None


@dataclass(frozen=True)
class PaperTable:
    """number: of the table; None: not the paper's own."""

    number: int | None
    title: str
    rows: tuple[PaperRow, ...]

    @property
    def name(self) -> str:
        return self.title if self.number is None else f"Table {self.number}: {self.title}"


@dataclass(frozen=True)
class Paper:
    """source: where the figures come from. token_shares: Table 2, percent of the tokens on each level."""

    source: str
    token_shares: dict[str, float]
    tables: tuple[PaperTable, ...]

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Paper:
        """From the mapping in conf/paper.yaml."""
        return from_mapping(cls, settings)

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
