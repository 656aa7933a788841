"""Figures as a table for a terminal, and as a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path


def text_table(columns: Sequence[tuple[str, str]], rows: Iterable[Sequence[object]]) -> str:
    """A line of labels, then one for each row; None is a dash. columns: (label, format of its figures) of each."""
    labels, forms = zip(*columns, strict=True)
    return "\n".join(text_line(forms, cells) for cells in (labels, *rows))


def text_line(forms: Iterable[str], cells: Iterable[object]) -> str:
    """A line of a table. forms: the format of each column's figures; text takes its width."""
    return "".join(_cell(value, form) for value, form in zip(cells, forms, strict=True))


def _cell(value: object, form: str) -> str:
    if value is None or isinstance(value, str):
        return format("-" if value is None else value, form.partition(".")[0])
    return format(value, form)


def write_csv(path: Path, names: Iterable[str], records: Iterable[Mapping[str, object]]) -> Path:
    """A line for each record under a line of names; None is an empty cell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(names))
        writer.writeheader()
        writer.writerows(records)
    return path
