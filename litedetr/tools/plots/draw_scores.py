"""What runs score: AP by size, AP by class, and which classes are taken for which."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from litedetr.engine.checkpoint import checkpoint_file
from litedetr.engine.coco_metrics import PRECISIONS, ClassScore
from litedetr.paths import user_path
from litedetr.tools.plots.confusion_figure import confusion_figure
from litedetr.tools.plots.load_scores import Scored, load_scores
from litedetr.tools.plots.plot_config import ScorePlot
from litedetr.tools.plots.style import FONT, colour, display_name, fonts_for, new_figure, save, set_labels

LABELS = ("AP", "AP50", "AP75", "AP\nsmall", "AP\nmedium", "AP\nlarge")  # of PRECISIONS
GROUP = 0.8  # of the place of a group, for its bars
WRITTEN = 6  # most runs whose bars carry their numbers
MOST = 180  # classes that a picture can show
COLUMN, COLUMN_WIDTH = 45, 6.5  # most classes under each other, and inches of each of several columns
WIDTH, SUMMARY_HEIGHT, BAR_HEIGHT, CLASS_GAP = 9.0, 4.5, 0.17, 0.12  # inches


def draw_scores(config: ScorePlot) -> list[Path]:
    """Write scores.png, classes.png and, of whatever has detections, confusion_<name>.png and .csv; their paths."""
    output, scored = _output(config), load_scores(config)
    if not scored:
        return []
    with_matrix = [item for item in scored if item.confusion is not None]
    names = [item.name for item in scored] + [score.name for item in scored for score in item.scores.classes]
    with fonts_for(names + [name for item in with_matrix for name in item.confusion.names]):
        written = [save(_summary(scored), output / "scores.png"), save(_classes(scored), output / "classes.png")]
        for item in with_matrix:
            path = output / f"confusion_{item.name.replace('/', '_')}.png"
            written += [save(confusion_figure(item.name, item.confusion), path), path.with_suffix(".csv")]
            item.confusion.write_csv(path.with_suffix(".csv"))
    return written


def _output(config: ScorePlot) -> Path:
    if config.output:
        return user_path(config.output)
    if config.checkpoint:
        return checkpoint_file(config.checkpoint).parent / "plots"
    return user_path(config.runs[0]) / "plots" if config.runs else user_path(config.detections).parent / "plots"


def _summary(scored: Sequence[Scored]) -> Figure:
    figure = new_figure(WIDTH, SUMMARY_HEIGHT)
    axes = figure.add_subplot()
    places = np.arange(len(PRECISIONS))
    width = GROUP / len(scored)
    for number, item in enumerate(scored):
        values = [item.scores.summary[name] for name in PRECISIONS]
        shift = (number - (len(scored) - 1) / 2) * width
        bars = axes.bar(
            places + shift, np.nan_to_num(values), width, color=colour(number), label=display_name(item.name)
        )
        if len(scored) <= WRITTEN:
            axes.bar_label(bars, [_text(value) for value in values], fontsize=FONT["tick"], padding=2)
    axes.set_xticks(places, LABELS)
    axes.margins(y=0.12)
    set_labels(axes, "box AP, as COCO defines it", y="AP")
    _tidy(axes, "y")
    _legend(figure, axes)
    return figure


def _classes(scored: Sequence[Scored]) -> Figure:
    """Best class first, by the mean of the runs, in one column or several; classes without objects are left out.

    Of more than MOST classes the better and the worse ends.
    """
    by_run = [{score.name: score for score in item.scores.classes if score.num_objects} for item in scored]
    ranked = sorted({name for classes in by_run for name in classes}, key=lambda name: -_mean_ap(by_run, name))
    names = ranked if len(ranked) <= MOST else [*ranked[: MOST // 2], *ranked[-MOST // 2 :]]
    rows = -(-len(names) // -(-len(names) // COLUMN)) if names else 1
    columns = [names[start : start + rows] for start in range(0, len(names), rows)] or [[]]
    figure = new_figure(WIDTH if len(columns) == 1 else COLUMN_WIDTH * len(columns), rows * _step(scored) + 1.2)
    panels = figure.subplots(1, len(columns), squeeze=False, sharex=True)[0]
    for axes, column in zip(panels, columns, strict=True):
        _draw_classes(axes, scored, by_run, column)
        axes.set_ylim((rows - 0.5) * _step(scored), -_step(scored) / 2)
        set_labels(axes, "", x="AP")
        _tidy(axes, "x")
    num_empty = len({score.name for item in scored for score in item.scores.classes}) - len(ranked)
    note = f"; {num_empty} classes without objects are left out" if num_empty else ""
    note += f"; the {MOST // 2} best and worst of {len(ranked)}" if len(ranked) > MOST else ""
    panels[0].set_title(f"box AP by class (in brackets: objects){note}", fontsize=FONT["title"], loc="left")
    _legend(figure, panels[0])
    return figure


def _step(scored: Sequence[Scored]) -> float:
    """Inches from one class to the next."""
    return len(scored) * BAR_HEIGHT + CLASS_GAP


def _draw_classes(
    axes: Axes, scored: Sequence[Scored], by_run: Sequence[dict[str, ClassScore]], names: Sequence[str]
) -> None:
    middles = np.arange(len(names)) * _step(scored)
    for number, (item, classes) in enumerate(zip(scored, by_run, strict=True)):
        values = [classes[name].ap if name in classes else math.nan for name in names]
        places = middles + (number - (len(scored) - 1) / 2) * BAR_HEIGHT
        bars = axes.barh(places, np.nan_to_num(values), BAR_HEIGHT, color=colour(number), label=display_name(item.name))
        axes.bar_label(bars, [_text(value) for value in values], fontsize=FONT["tick"] - 1, padding=3)
    axes.set_yticks(middles, [_class_label(by_run, name) for name in names])
    axes.margins(x=0.08)


def _mean_ap(by_run: Sequence[dict[str, ClassScore]], name: str) -> float:
    return float(np.mean([np.nan_to_num(classes[name].ap) for classes in by_run if name in classes]))


def _class_label(by_run: Sequence[dict[str, ClassScore]], name: str) -> str:
    """The name, and the number of objects; of runs on different data, each their own."""
    counts = dict.fromkeys(classes[name].num_objects for classes in by_run if name in classes)
    return f"{display_name(name)} ({', '.join(map(str, counts))})"


def _text(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _tidy(axes: Axes, along: str) -> None:
    axes.grid(axis=along, alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    columns = min(len(labels), 4)
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, fontsize=FONT["label"], frameon=False)
