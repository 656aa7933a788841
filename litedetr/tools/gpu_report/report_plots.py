"""Pictures of a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from litedetr.tools.gpu_report.plan import Row
from litedetr.tools.gpu_report.summary import OURS, PASSES, WORKLOAD, Steps, by_workload, grouped, of_kind
from litedetr.tools.plots.style import colour, new_figure, save

INCHES_PER_BAR = 0.16
INCHES_PER_LINE = 0.26
WIDTH = 9.0  # inches


def draw(name: str, steps: Steps, folder: Path) -> Path | None:
    """Write one of PLOTS; None if there are no rows for it."""
    kinds, make = PLOTS[name]
    rows = [row for kind in kinds for row in of_kind(steps, name, kind)]
    if not rows:
        return None
    return save(make(rows), folder / f"{name}.png")


def _attention(rows: list[Row]) -> Figure:
    """Of the first precision: a panel for each pass, a line for each workload, of each attention a dot."""
    rows = [row for row in rows if row["dtype"] == rows[0]["dtype"]]
    names = sorted(dict.fromkeys(row["name"] for row in rows), key=lambda name: name != OURS)
    labels = [_label(group) for group in by_workload(rows)]
    passes = grouped(rows, ("run",))
    figure = new_figure(WIDTH, 1.4 + INCHES_PER_LINE * len(labels))
    panels = figure.subplots(1, len(passes), squeeze=False, sharey=True)[0]
    for axes, found in zip(panels, passes, strict=True):
        _dots(axes, found, names, labels)
        axes.set_title(f"{rows[0]['dtype']}, {PASSES[found[0]['run']]}", fontsize=9)
        axes.set_xlabel("milliseconds")
    panels[0].set_yticks(range(len(labels)), labels, fontsize=8)
    panels[0].set_ylim(len(labels) - 0.5, -0.5)  # the first on top
    handles, texts = panels[0].get_legend_handles_labels()
    figure.legend(handles, texts, fontsize=8, loc="outside upper center", ncols=len(texts))
    return figure


def _label(group: Sequence[Row]) -> str:
    return " ".join(str(group[0][name]) for name in WORKLOAD)


def _dots(axes: Axes, rows: Sequence[Row], names: Sequence[str], labels: Sequence[str]) -> None:
    """Times by workload, and what moving the bytes takes at least."""
    lines = {_label(group): labels.index(_label(group)) for group in by_workload(rows)}
    limits = {_label([row]): row["limit_ms"] for row in rows}
    axes.plot(limits.values(), [lines[label] for label in limits], "|", color="black", ms=11, label="limit")
    for number, name in enumerate(names):
        times = {_label([row]): row["milliseconds"] for row in reversed(rows) if row["name"] == name}
        size = 7 if name == OURS else 5
        axes.plot(times.values(), [lines[label] for label in times], "o", color=colour(number), ms=size, label=name)
    axes.set_xscale("log")
    axes.grid(alpha=0.3)


def _detectors(rows: list[Row]) -> Figure:
    labels = [f"{row['system']}, batch {row['batch']}, {row['precision']}" for row in rows]
    bars = [[row["eager_ms"] / row["batch"], row["graph_ms"] and row["graph_ms"] / row["batch"]] for row in rows]
    return _bars(labels, ("eager", "replayed from a CUDA graph"), bars, "milliseconds per image")


def _memory_access(rows: list[Row]) -> Figure:
    labels = [f"{row['kind']}: {row['what']}, {row['where']}" for row in rows]
    bars = [[row["tb_per_s"]] for row in rows]
    return _bars(labels, ("table",), bars, "10^12 bytes per second, of the rows that are read or added to")


def _bars(labels: Sequence[str], names: Sequence[str], bars: Sequence[Sequence[float | None]], unit: str) -> Figure:
    """Horizontal bars: a group for each label, of each one bar for each name; None leaves a gap."""
    figure = new_figure(WIDTH, 1.2 + INCHES_PER_BAR * len(labels) * (len(names) + 1))
    axes = figure.subplots()
    thickness = 0.9 / len(names)
    for number, name in enumerate(names):
        places = [group - 0.45 + (number + 0.5) * thickness for group in range(len(labels))]
        values = [values[number] or 0 for values in bars]
        axes.barh(places, values, thickness, label=name, color=colour(number))
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.set_ylim(len(labels) - 0.5, -0.5)  # the first on top
    axes.set_xlabel(unit)
    axes.grid(axis="x", alpha=0.3)
    if len(names) > 1:
        figure.legend(fontsize=8, loc="outside upper center", ncols=len(names))
    return figure


PLOTS = {  # by the step that is drawn: kinds of its rows, and what makes a figure of them
    "detectors": (("detectors",), _detectors),
    "attention": (("attention",), _attention),
    "memory_access": (("atomics", "gathers"), _memory_access),
}
