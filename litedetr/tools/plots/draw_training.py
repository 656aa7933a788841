"""How runs went: scores, loss and its parts, learning rate, gradient norm and speed, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import ScalarFormatter

from litedetr.losses import Branch
from litedetr.paths import user_path
from litedetr.tools.plots.plot_config import TrainingPlot
from litedetr.tools.plots.run_history import History, Kind, Number, read_history
from litedetr.tools.plots.style import FONT, colour, display_name, fonts_for, new_figure, run_names, save, set_labels

SCORES = {
    "AP": "AP",
    "AP50": "AP50",
    "AP75": "AP75",
    "AP_small": "AP, small objects",
    "AP_medium": "AP, medium objects",
    "AP_large": "AP, large objects",
}
NUMBERS = {
    "loss": "loss, weighted sum of all parts",
    "lr": "learning rate",
    "grad_norm": "gradient norm, before clipping",
    "images_per_second": "training images per second",
}
SIZE_INCHES = (11.7, 11.3)
TERM_TITLES = {"l1": "boxes (L1)", "giou": "boxes (1 - GIoU)"}  # others: their names
BRANCH_TITLES = {
    Branch.DECODER: "decoder",
    Branch.PROPOSALS: "proposals",
    Branch.ONE_TO_MANY: "one-to-many",
    Branch.DENOISING: "denoising",
}
PANEL, LEGEND = (3.9, 2.7), 0.8  # inches, of the losses' figure
LINES = {"last layer": "-", "the one before": "--", "two before": "-.", "earlier ones": ":"}
FAINT = 0.22  # opacity of the raw curves
HEADROOM = 1.08


def draw_training(config: TrainingPlot) -> list[Path]:
    """Write training.png and losses.png; returns their paths."""
    folders = [user_path(run) for run in config.runs]
    histories = [read_history(*pair) for pair in zip(folders, run_names(folders), strict=True)]
    curves = RunCurves(histories, config.over, config.smoothing)
    output = user_path(config.output or folders[0] / "plots")
    with fonts_for(history.name for history in histories):
        figures = {"training": _numbers_figure(curves), "losses": _losses_figure(curves)}
        return [save(figure, output / f"{name}.png") for name, figure in figures.items()]


def _numbers_figure(curves: RunCurves) -> Figure:
    """Two rows of scores, two of the numbers of training."""
    figure = new_figure(*SIZE_INCHES)
    grid = figure.add_gridspec(4, 6)
    narrow = [figure.add_subplot(grid[row, column : column + 2]) for row in (0, 1) for column in (0, 2, 4)]
    for axes, (name, title) in zip(narrow, SCORES.items(), strict=True):
        curves.draw(axes, "evaluation", name)
        set_labels(axes, title, x=curves.over)
        from_zero(axes)
    wide = [figure.add_subplot(grid[row, column : column + 3]) for row in (2, 3) for column in (0, 3)]
    for axes, (name, title) in zip(wide, NUMBERS.items(), strict=True):
        curves.draw(axes, "train", name, smooth=name != "lr")
        set_labels(axes, title, x=curves.over)
        if name == "grad_norm":
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(ScalarFormatter())
            axes.yaxis.set_minor_formatter(ScalarFormatter())
        else:
            from_zero(axes)
    curves.legend(figure)
    return figure


def _losses_figure(curves: RunCurves) -> Figure:
    """Unweighted parts, per object: a row for each term, a column for each branch that some run has, a line for each
    layer.
    """
    parts = list(dict.fromkeys(part for history in curves.histories for part in history.loss_parts()))
    branches = [branch for branch in Branch if any(part.branch is branch for part in parts)] or [Branch.DECODER]
    terms = list(dict.fromkeys(part.term for part in parts)) or list(TERM_TITLES)
    figure = new_figure(max(len(branches), 2) * PANEL[0], len(terms) * PANEL[1] + LEGEND)
    panels = figure.subplots(len(terms), len(branches), squeeze=False)
    deepest = 1
    for row, term in zip(panels, terms, strict=True):
        for axes, branch in zip(row, branches, strict=True):
            layers = [part for part in parts if (part.branch, part.term) == (branch, term)]
            layers.sort(key=lambda part: part.layer, reverse=True)
            for depth, part in enumerate(layers):
                curves.draw(axes, "train", part, depth)
            set_labels(axes, f"{BRANCH_TITLES[branch]}: {TERM_TITLES.get(term, term)}", x=curves.over)
            from_zero(axes)
            deepest = max(deepest, len(layers))
    curves.legend(figure, deepest)
    return figure


@dataclass(frozen=True)
class RunCurves:
    """Curves of several runs in one panel, each run in its colour."""

    histories: Sequence[History]
    over: Literal["epoch", "step"]  # what stands on the x axis
    smoothing: float  # of the bold curves of training steps; see Curve.smoothed

    def draw(self, axes: Axes, kind: Kind, name: Number, depth: int = 0, smooth: bool = True) -> None:
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
