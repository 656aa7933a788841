"""The drawing of a confusion matrix, readable with few classes and with many."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from litedetr.tools.plots.confusion_matrix import ConfusionMatrix
from litedetr.tools.plots.style import FONT, display_name, new_figure

COLOURS = "Blues"
DARK = 0.55  # share from which text is white
MOST = 120  # classes that a picture can show


@dataclass(frozen=True)
class Cells:
    """How a matrix is drawn."""

    side: float  # of a cell, in inches
    tick: float  # size of the classes' names, in points
    counts: bool  # whether they stand in the cells


FEW, SOME, MANY = Cells(0.85, 10, True), Cells(0.52, 9, True), Cells(0.17, 7, False)


def confusion_figure(name: str, confusion: ConfusionMatrix) -> Figure:
    """Shares of each row as colours, with counts if there is room; classes that never occur are left out.

    Of more than MOST classes the most confused are shown, and the others as one.
    """
    confusion = confusion.of_seen_classes().of_most_confused(MOST)
    number = len(confusion.names)
    cells = FEW if number <= 9 else SOME if number <= 21 else MANY
    side = number * cells.side
    figure = new_figure(max(side + 2.6, 8.4), side + 3.2)
    axes = figure.add_subplot()
    image = axes.imshow(confusion.shares, cmap=COLOURS, vmin=0, vmax=1)
    bar = figure.colorbar(image, ax=axes, shrink=0.6, aspect=30, pad=0.02)
    bar.set_label("share of the row", fontsize=FONT["label"])
    names = [display_name(name) for name in confusion.names]
    axes.set_xticks(range(number), names, fontsize=cells.tick, rotation=45 if cells.counts else 90)
    if cells.counts:
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    axes.set_yticks(range(number), names, fontsize=cells.tick)
    axes.set_xlabel("class of the detection", fontsize=FONT["label"])
    axes.set_ylabel("class of the object", fontsize=FONT["label"])
    for line in (axes.axhline, axes.axvline):
        line(number - 1.5, color="black", linewidth=1)
    if cells.counts:
        _write(axes, confusion, cells)
    figure.suptitle(_title(name, confusion), fontsize=FONT["title"] - 1, x=0.01, ha="left")
    return figure


def _title(name: str, confusion: ConfusionMatrix) -> str:
    rule = confusion.rule
    return (
        f"{display_name(name)}: objects by row, what they were detected as by column\n"
        f"Detections of score >= {rule.min_score:g} choose in the order of scores: each takes the free object that it\n"
        f"overlaps most, of whatever class, if by IoU >= {rule.iou:g}. Crowds are ignored as in COCO.\n"
        "Last column: objects that none took; last row: detections that took none. Colour: share of the row."
    )


def _write(axes: Axes, confusion: ConfusionMatrix, cells: Cells) -> None:
    """The count and, in large cells, the share."""
    shares = confusion.shares
    for (row, column), count in np.ndenumerate(confusion.counts):
        if not count:
            continue
        share = shares[row, column]
        text = f"{count}\n{share:.0%}" if cells is FEW else f"{count}"
        colour = "white" if share > DARK else "black"
        axes.text(column, row, text, ha="center", va="center", fontsize=cells.tick, color=colour)
