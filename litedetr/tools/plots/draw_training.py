"""How runs went: scores, loss and its parts, learning rate, gradient norm and speed, side by side."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from litedetr.paths import user_path
from litedetr.tools.plots.losses_figure import losses_figure
from litedetr.tools.plots.plot_config import TrainingPlot
from litedetr.tools.plots.run_curves import RunCurves, from_zero
from litedetr.tools.plots.run_history import read_history
from litedetr.tools.plots.style import fonts_for, new_figure, run_names, save, set_labels

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


def draw_training(config: TrainingPlot) -> list[Path]:
    """Write training.png and losses.png; returns their paths."""
    folders = [user_path(run) for run in config.runs]
    histories = [read_history(*pair) for pair in zip(folders, run_names(folders), strict=True)]
    curves = RunCurves(histories, config.over, config.smoothing)
    output = user_path(config.output or folders[0] / "plots")
    with fonts_for(history.name for history in histories):
        figures = {"training": _numbers_figure(curves), "losses": losses_figure(curves)}
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
