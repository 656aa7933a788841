"""One detector over the side of an image and over the objects in it: what grows, and how fast?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from litedetr.engine.run_config import Precision
from litedetr.models import DetectorConfig, level_shapes
from litedetr.settings import require
from litedetr.tools.benchmark.contestants import Setting, Step, of_config
from litedetr.tools.flops import count
from litedetr.tools.memory import SampleStep, StepConfig

Axis = Literal["side", "objects"]
RunName = Literal["forward", "training", "losses"]


@dataclass(frozen=True)
class ScaleConfig:
    """The section `scale` of conf/benchmark.yaml.

    sides, training_sides: of square images in pixels, for forward passes and for training steps, both with
    `usual_objects`. objects: in an image of `usual_side`, for training steps and for their losses alone.
    """

    system: str
    sides: tuple[int, ...]
    training_sides: tuple[int, ...]
    usual_objects: int
    objects: tuple[int, ...]
    usual_side: int
    num_classes: int
    precision: Precision

    def __post_init__(self) -> None:
        for name in ("sides", "training_sides"):
            value = getattr(self, name)
            require(all(side >= 1 for side in value), f"scale.{name}", "sides of at least 1", value)
        require(all(number >= 0 for number in self.objects), "scale.objects", "numbers of at least 0", self.objects)
        for name in ("usual_side", "num_classes"):
            require(getattr(self, name) >= 1, f"scale.{name}", "at least 1", getattr(self, name))
        require(self.usual_objects >= 0, "scale.usual_objects", "at least 0", self.usual_objects)
        require(len(self.points) > 0, "scale", "at least one side or number of objects", self.sides)

    @property
    def points(self) -> list[Point]:
        usual = self.usual_objects
        over_side = [Point("side", "forward", side, usual) for side in self.sides]
        over_side += [Point("side", "training", side, usual) for side in self.training_sides]
        runs: tuple[RunName, ...] = ("training", "losses")
        return over_side + [Point("objects", run, self.usual_side, n) for run in runs for n in self.objects]


@dataclass(frozen=True)
class Point:
    """over: what varies. run: a forward pass to detections, a training step, or its losses with their matching."""

    over: Axis
    run: RunName
    side: int
    num_objects: int

    def step(self, detector: DetectorConfig, config: ScaleConfig, device: torch.device) -> Step:
        """What is timed, with random weights on one random image."""
        size, objects, classes = (self.side, self.side), self.num_objects, config.num_classes
        if self.run == "losses":
            sample = SampleStep(detector, StepConfig(size, 1, objects, classes, config.precision, False), device)
            output = sample.model(sample.images, sample.targets)
            return lambda: sample.criterion(output, sample.targets)
        setting = Setting(size, 1, classes, objects, config.precision, device)
        return of_config("", detector, setting).steps[self.run]


@dataclass(frozen=True)
class ScaleRow:
    """tokens: of all levels. gflops: of a forward pass. peak_mib: growth of memory in the step, None where unknown."""

    over: Axis
    run: RunName
    side: int
    objects: int
    tokens: int
    gflops: float
    milliseconds: float
    peak_mib: float | None

    @classmethod
    def of(cls, point: Point, detector: DetectorConfig, config: ScaleConfig, found: tuple[float, float | None]):
        """found: milliseconds and MiB."""
        size = (point.side, point.side)
        tokens = sum(h * w for h, w in level_shapes(detector.neck.num_levels, size))
        gflops = count(detector, size, config.num_classes).total.published
        return cls(point.over, point.run, point.side, point.num_objects, tokens, gflops, *found)

    @property
    def x(self) -> int:
        """What it is drawn over: pixels, or objects."""
        return self.side**2 if self.over == "side" else self.objects


def series(rows: Sequence[ScaleRow]) -> Iterator[list[ScaleRow]]:
    """The rows of one curve each."""
    for key in dict.fromkeys((row.over, row.run) for row in rows):
        yield [row for row in rows if (row.over, row.run) == key]


def scale_table(rows: Sequence[ScaleRow]) -> str:
    """A line for each row. power: p where time, or memory, grew as the p-th power since the line above."""
    head = f"{'run':9}{'side':>6}{'objects':>9}{'tokens':>9}{'GFLOPs':>9}{'ms':>10}{'power':>7}{'MiB':>8}{'power':>7}"
    lines = [head]
    for curve in series(rows):
        for before, row in zip([None, *curve], curve, strict=False):
            time, peak = (_power(before, row, name) for name in ("milliseconds", "peak_mib"))
            memory = "-" if row.peak_mib is None else f"{row.peak_mib:.0f}"
            lines.append(
                f"{row.run:9}{row.side:6}{row.objects:9}{row.tokens:9}{row.gflops:9.1f}"
                f"{row.milliseconds:10.1f}{time:>7}{memory:>8}{peak:>7}"
            )
    return "\n".join(lines)


def _power(before: ScaleRow | None, row: ScaleRow, name: str) -> str:
    if before is None:
        return "-"
    small, large = (before.x, getattr(before, name)), (row.x, getattr(row, name))
    if not all((*small, *large)) or small[0] == large[0]:
        return "-"
    return f"{math.log(large[1] / small[1]) / math.log(large[0] / small[0]):.2f}"
