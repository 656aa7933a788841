"""FLOPs and AP over time, one point a detector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from litedetr.tools.benchmark.model_rows import ModelRow
from litedetr.tools.plots.style import display_name, fonts_for, save

PANEL_INCHES, DPI = (6.5, 5), 130
COLOURS = ("#1d3557", "#c1121f", "#2a9d8f", "#e07a1f", "#4361ee", "#b5179e", "#6c757d")


def draw_models(rows: Sequence[ModelRow], machine: str, path: Path) -> Path:
    """Write a PNG: for each pass a panel of GFLOPs over milliseconds, and one of AP where it is known.

    The dashed line is in proportion to the first detector. Left of it, more time than FLOPs was saved; right of it,
    less.
    """
    with fonts_for(row.name for row in rows):
        return save(_figure(rows, machine), path)


def _figure(rows: Sequence[ModelRow], machine: str) -> Figure:
    forward = [row for row in rows if row.run == "forward"]
    training = [row for row in rows if row.run == "training"]
    panels = [(_flops_panel, part) for part in (forward, training) if any(row.gflops for row in part)]
    panels += [(_ap_panel, part) for part in (forward,) if any(row.ap for row in part)]
    figure = Figure(figsize=(PANEL_INCHES[0] * len(panels), PANEL_INCHES[1]), dpi=DPI, layout="constrained")
    for axes, (panel, part) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        panel(axes, part)
        axes.grid(alpha=0.3)
    first = rows[0]
    size = f"{first.height}x{first.width}, batch {first.batch_size}, {first.precision}"
    figure.suptitle(f"{size}; {machine}", fontsize=10)
    return figure


def _flops_panel(axes: Axes, rows: Sequence[ModelRow]) -> None:
    counted = [row for row in rows if row.gflops]
    slope = counted[0].gflops / counted[0].milliseconds
    highest = max(row.gflops for row in counted) * 1.3
    _points(axes, rows, counted, "gflops")
    axes.plot([0, highest / slope], [0, highest], "--", color="black", alpha=0.4, linewidth=1, zorder=0)
    for row in rows:
        if not row.gflops:  # a peer that nobody counted: its time alone
            axes.axvline(row.milliseconds, color=COLOURS[-1], linewidth=1.2, linestyle=":")
            place = (row.milliseconds, highest * 0.03)
            axes.annotate(display_name(row.name), place, rotation=90, fontsize=8, ha="right", va="bottom")
    axes.set_ylim(0, highest)
    axes.set_ylabel("GFLOPs (multiply-adds)")


def _ap_panel(axes: Axes, rows: Sequence[ModelRow]) -> None:
    known = [row for row in rows if row.ap]
    _points(axes, rows, known, "ap")
    axes.margins(y=0.4)
    sources = sorted({row.ap_source for row in known})
    axes.set_ylabel(f"box AP ({'; '.join(sources)})")


def _points(axes: Axes, rows: Sequence[ModelRow], known: Sequence[ModelRow], field: str) -> None:
    for row in known:
        colour = COLOURS[rows.index(row) % len(COLOURS)]
        axes.scatter(row.milliseconds, getattr(row, field), s=60, color=colour, zorder=2, label=display_name(row.name))
    axes.set_xlim(0, max(row.milliseconds for row in rows) * 1.1)
    axes.set_xlabel(f"milliseconds, {'training step' if rows[0].run == 'training' else 'forward pass'}")
    axes.legend(loc="upper left", fontsize=8)
