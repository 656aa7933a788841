"""Curves of several runs in one panel, each run in its colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from litedetr.tools.plots.run_history import History, Kind
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
        """The number `name` of all runs. depth: layers before the last one, the only one that shows raw values."""
        curves = [history.curve(kind, name, self.over) for history in self.histories]
        smoothing = self.smoothing if smooth and kind == "train" else 0
        line = list(LINES.values())[min(depth, len(LINES) - 1)]
        for number, curve in enumerate(curves):
            if smoothing and depth == 0:
                axes.plot(curve.x, curve.y, color=colour(number), alpha=FAINT, linewidth=0.8)
            smooth_curve, marker = curve.smoothed(smoothing), "o" if kind == "evaluation" or len(curve) == 1 else ""
            style = {"color": colour(number), "linewidth": 1.8 if depth == 0 else 1.0, "marker": marker}
            axes.plot(smooth_curve.x, smooth_curve.y, line, markersize=4, **style)
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
