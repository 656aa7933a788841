"""Curves of several runs in one panel, each run in its colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from litedetr.tools.plots.run_history import Curve, History, Kind
from litedetr.tools.plots.style import FONT, colour, display_name

LINES = {"last layer": "-", "the one before": "--", "two before": "-.", "earlier ones": ":"}
FAINT = 0.22  # opacity of the raw curves
HEADROOM = 1.08


@dataclass(frozen=True)
class RunCurves:
    """over: what stands on the x axis. smoothing: of the bold curves of training steps; see Curve.smoothed."""

    histories: Sequence[History]
    over: Literal["epoch", "step"]
    smoothing: float

    def draw(self, axes: Axes, kind: Kind, name: str, depth: int = 0, smooth: bool = True) -> None:
        """The number `name` of all runs. depth: how many layers before the last one, which alone shows raw values."""
        curves = [history.curve(kind, name, self.over) for history in self.histories]
        smoothing = self.smoothing if smooth and kind == "train" else 0
        for number, curve in enumerate(curves):
            if smoothing and depth == 0:
                axes.plot(curve.x, curve.y, color=colour(number), alpha=FAINT, linewidth=0.8)
            dots = kind == "evaluation" or len(curve) == 1
            _plot(axes, curve.smoothed(smoothing), colour(number), depth, "o" if dots else "")
        if not any(map(len, curves)):
            nothing = "no evaluation yet" if kind == "evaluation" else "nothing logged"
            axes.text(0.5, 0.5, nothing, ha="center", va="center", transform=axes.transAxes, fontsize=FONT["label"])
        axes.grid(alpha=0.25)

    def legend(self, figure: Figure, depth: int = 1) -> None:
        """Above the panels: the runs' names and, of more than one, the lines of `depth` layers."""
        entries = [
            Line2D([], [], color=colour(number), linewidth=3, label=display_name(history.name))
            for number, history in enumerate(self.histories)
        ]
        layers = list(LINES.items())[:depth] if depth > 1 else []
        entries += [Line2D([], [], color="black", linestyle=line, label=name) for name, line in layers]
        columns = min(len(entries), 6)
        figure.legend(handles=entries, loc="outside upper center", ncols=columns, fontsize=FONT["label"], frameon=False)


def from_zero(axes: Axes) -> None:
    """The y axis begins at zero."""
    axes.set_ylim(0, max(axes.dataLim.y1, 0) * HEADROOM or 1)


def _plot(axes: Axes, curve: Curve, run_colour: str, depth: int, marker: str) -> None:
    line = list(LINES.values())[min(depth, len(LINES) - 1)]
    width = 1.8 if depth == 0 else 1.0
    axes.plot(curve.x, curve.y, line, color=run_colour, linewidth=width, marker=marker, markersize=4)
