"""One detector over the side of an image and over the objects in it: what grows, and how fast?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import Literal

import torch

from litedetr.kernels.bench.cuda_gpu import Step
from litedetr.models import DetectorConfig, level_shapes
from litedetr.tools.benchmark.benchmark_config import ScaleConfig
from litedetr.tools.benchmark.timed_detectors import Conditions, of_config
from litedetr.tools.flops.count import count
from litedetr.tools.memory import SampleStep, StepConfig
from litedetr.tools.random_batch import RandomBatch
from litedetr.tools.tables import text_table

Axis = Literal["side", "objects"]
Part = Literal["forward", "training", "losses"]


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
