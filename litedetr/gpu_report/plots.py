"""Pictures of a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from litedetr.gpu_report.summary import OURS, WORKLOAD, Steps, grouped, of_kind

DPI = 110
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c6d1f")
INCHES_PER_BAR = 0.16
WIDTH = 9.0  # inches


def _attention(steps: Steps, folder: Path) -> Path | None:
    """Of the first precision: a group of bars for each workload, of each contestant one; a line where moving the bytes
    ends.
    """
    rows = of_kind(steps, "attention", "attention")
    if not rows:
        return None
    rows = [row for row in rows if row["dtype"] == rows[0]["dtype"]]
    names = sorted({row["name"] for row in rows}, key=lambda name: name != OURS)
    groups = grouped(rows, WORKLOAD)
    times = [{row["name"]: row["milliseconds"] for row in group} for group in groups]
    bars = [[time.get(name) for name in names] for time in times]
    labels = [" ".join(str(group[0][name]) for name in WORKLOAD) for group in groups]
    figure, axes = _bars(labels, names, bars)
    for number, group in enumerate(groups):
        axes.plot([group[0]["limit_ms"]] * 2, [number - 0.45, number + 0.45], color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds; black line: what moving the bytes takes at least")
    return _save(figure, folder / "attention.png")


def _detectors(steps: Steps, folder: Path) -> Path | None:
    rows = of_kind(steps, "detectors", "detectors")
    if not rows:
        return None
    labels = [f"{row['system']}, batch {row['batch']}, {row['precision']}" for row in rows]
    bars = [[row["eager_ms"] / row["batch"], row["graph_ms"] and row["graph_ms"] / row["batch"]] for row in rows]
    figure, axes = _bars(labels, ("called", "replayed from a graph"), bars)
    axes.set_xlabel("milliseconds an image")
    return _save(figure, folder / "detectors.png")


def _memory_access(steps: Steps, folder: Path) -> Path | None:
    rows = [row for kind in ("atomics", "gathers") for row in of_kind(steps, "memory_access", kind)]
    if not rows:
        return None
    labels = [f"{row['kind']}: {row['what']}, {row['where']}" for row in rows]
    figure, axes = _bars(labels, ("table",), [[row["tb_per_s"]] for row in rows])
    axes.set_xlabel("terabytes a second, by the numbers read or added")
    return _save(figure, folder / "memory_access.png")


def _bars(labels: Sequence[str], names: Sequence[str], bars: Sequence[Sequence[float | None]]) -> tuple[Figure, Axes]:
    """Horizontal bars: a group for each label, of each one bar for each name; None leaves a gap."""
    height = 1.2 + INCHES_PER_BAR * len(labels) * (len(names) + 1)
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    thickness = 0.9 / len(names)
    for number, name in enumerate(names):
        places = [group - 0.45 + (number + 0.5) * thickness for group in range(len(labels))]
        values = [values[number] or 0 for values in bars]
        axes.barh(places, values, thickness, label=name, color=COLOURS[number % len(COLOURS)])
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.set_ylim(len(labels) - 0.5, -0.5)  # the first on top
    axes.grid(axis="x", alpha=0.3)
    if len(names) > 1:
        figure.legend(fontsize=8, loc="outside upper center", ncols=len(names))
    return figure, axes


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path)
    return path


PLOTS = {"attention.png": _attention, "detectors.png": _detectors, "memory_access.png": _memory_access}
