"""Time and memory over pixels and over objects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from litedetr.tools.benchmark.scale_rows import Axis, ScaleRow, series
from litedetr.tools.plots.style import FONT, colour, new_figure, save, set_labels

PANEL = (5.6, 3.9)  # inches
UNITS = {"milliseconds": ("seconds", 1e-3), "peak_mib": ("GiB", 1 / 1024)}
TITLES = {"milliseconds": "time", "peak_mib": "peak memory of a step"}
RUNS = {"forward": "forward pass", "training": "training step", "losses": "its losses, with matching"}


def draw_scale(rows: Sequence[ScaleRow], machine: str, path: Path) -> Path:
    """Write a PNG with a row of panels for what varies: time, and memory where it is known."""
    axes_of = [axis for axis in ("side", "objects") if any(row.over == axis for row in rows)]
    names = [name for name in UNITS if any(getattr(row, name) is not None for row in rows)]
    figure = new_figure(PANEL[0] * len(names), PANEL[1] * len(axes_of) + 0.4)
    panels = figure.subplots(len(axes_of), len(names), squeeze=False)
    for line, axis in zip(panels, axes_of, strict=True):
        for axes, name in zip(line, names, strict=True):
            _panel(axes, [row for row in rows if row.over == axis], axis, name)
    figure.suptitle(machine, fontsize=FONT["label"])
    return save(figure, path)


def _panel(axes: Axes, rows: Sequence[ScaleRow], axis: Axis, name: str) -> None:
    unit, factor = UNITS[name]
    for curve in series(rows):
        number = list(RUNS).index(curve[0].run)
        known = [row for row in curve if getattr(row, name) is not None]
        x, y = [row.x for row in known], [getattr(row, name) * factor for row in known]
        axes.plot(x, y, "o-", color=colour(number), markersize=5, label=RUNS[curve[0].run])
        if axis == "side" and known:
            guide = [y[-1] * value / x[-1] for value in x]
            axes.plot(x, guide, ":", color=colour(number), linewidth=1.2)
    if axis == "side":
        axes.plot([], [], ":", color="black", linewidth=1.2, label="in proportion to pixels")
        _over_sides(axes, sorted({row.side for row in rows}))
        set_labels(axes, f"{TITLES[name]} over the image", "side of the image, pixels (scale: their number)", unit)
    else:
        _over_objects(axes, sorted({row.objects for row in rows}))
        side = rows[0].side
        set_labels(axes, f"{TITLES[name]} over its objects ({side}x{side})", "objects in the image", unit)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=FONT["tick"] - 1, loc="best")


def _over_sides(axes: Axes, sides: Sequence[int]) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(FixedLocator([side**2 for side in sides]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda pixels, _: f"{pixels**0.5:.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _over_objects(axes: Axes, objects: Sequence[int]) -> None:
    axes.set_xscale("symlog", linthresh=1)  # none, one, many
    axes.set_xticks(objects, [str(number) for number in objects])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(bottom=0)
