"""One detector over the side of an image and over the objects in it, as a table and a picture: what grows, how fast?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Literal

import torch
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from litedetr.kernels.bench.cuda_gpu import Step
from litedetr.models import DetectorConfig, level_shapes
from litedetr.tools.benchmark.benchmark_config import ScaleConfig
from litedetr.tools.benchmark.timed_detectors import Conditions, of_config
from litedetr.tools.flops.count import count
from litedetr.tools.memory import SampleStep, StepConfig
from litedetr.tools.plots.style import FONT, colour, new_figure, save, set_labels
from litedetr.tools.random_batch import RandomBatch
from litedetr.tools.tables import text_table

Axis = Literal["side", "objects"]
Part = Literal["forward", "training", "losses"]

PANEL = (5.6, 3.9)  # inches
UNITS = {"milliseconds": ("seconds", 1e-3), "peak_mib": ("GiB", 1 / 1024)}
TITLES = {"milliseconds": "time", "peak_mib": "peak memory of a step"}
RUNS = {"forward": "forward pass", "training": "training step", "losses": "its losses, with matching"}


@dataclass(frozen=True)
class Point:
    """What is timed on one random image."""

    over: Axis  # what varies
    run: Part  # a forward pass to detections, a training step, or its losses with their matching
    side: int
    objects: int

    @property
    def x(self) -> int:
        """What it is drawn over: pixels, or objects."""
        return self.side**2 if self.over == "side" else self.objects

    def make_step(self, detector: DetectorConfig, config: ScaleConfig, device: torch.device) -> Step:
        """With random weights."""
        batch = ((self.side, self.side), 1, self.objects, config.num_classes, config.precision)
        if self.run == "losses":
            sample = SampleStep(detector, StepConfig(*batch, average=False), device)
            output = sample.model(sample.images, sample.targets)
            return lambda: sample.criterion(output, sample.targets)
        return of_config("", detector, Conditions(RandomBatch(*batch), device)).steps[self.run]


def points(config: ScaleConfig) -> list[Point]:
    """The forward passes and training steps over the side, then training steps and losses over the objects."""
    sides: dict[Part, tuple[int, ...]] = {"forward": config.sides, "training": config.training_sides}
    parts: tuple[Part, ...] = ("training", "losses")
    over_side = [Point("side", part, side, config.usual_objects) for part in sides for side in sides[part]]
    return over_side + [Point("objects", part, config.usual_side, n) for part in parts for n in config.objects]


@dataclass(frozen=True)
class ScaleRow(Point):
    """What one point took."""

    tokens: int  # of all levels
    gflops: float  # of a forward pass
    milliseconds: float
    peak_mib: float | None  # growth of memory in the step; None if it is not known

    @classmethod
    def of(
        cls, point: Point, detector: DetectorConfig, num_classes: int, measured: tuple[float, float | None]
    ) -> ScaleRow:
        """measured: milliseconds and MiB."""
        size = (point.side, point.side)
        tokens = sum(h * w for h, w in level_shapes(detector.neck.num_levels, size))
        gflops = count(detector, size, num_classes).total.published
        return cls(*astuple(point), tokens, gflops, *measured)


def series(rows: Sequence[ScaleRow]) -> Iterator[list[ScaleRow]]:
    """The rows of one curve each."""
    for key in dict.fromkeys((row.over, row.run) for row in rows):
        yield [row for row in rows if (row.over, row.run) == key]


COLUMNS = (  # label, format
    *(("run", "<9"), ("side", ">6"), ("objects", ">9"), ("tokens", ">9"), ("GFLOPs", ">9.1f")),
    *(("ms", ">10.1f"), ("power", ">7"), ("MiB", ">8.0f"), ("power", ">7")),
)


def scale_table(rows: Sequence[ScaleRow]) -> str:
    """A line for each row. power: p if time, or memory, grew as the p-th power since the line above."""
    lines = []
    for curve in series(rows):
        for before, row in zip([None, *curve], curve, strict=False):
            time, peak = (_power(before, row, name) for name in ("milliseconds", "peak_mib"))
            size = (row.side, row.objects, row.tokens, row.gflops)
            lines.append((row.run, *size, row.milliseconds, time, row.peak_mib, peak))
    return text_table(COLUMNS, lines)


def _power(before: ScaleRow | None, row: ScaleRow, name: str) -> str | None:
    if before is None:
        return None
    small, large = (before.x, getattr(before, name)), (row.x, getattr(row, name))
    if not all((*small, *large)) or small[0] == large[0]:
        return None
    return f"{math.log(large[1] / small[1]) / math.log(large[0] / small[0]):.2f}"


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
