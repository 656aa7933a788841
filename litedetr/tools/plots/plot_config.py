"""Settings of the pictures: what conf/draw/*.yaml holds and describes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from litedetr.engine.run_config import Device
from litedetr.settings import require, typed


@dataclass(frozen=True)
@typed
class AttentionPlot:
    """The settings of conf/draw/attention.yaml."""

    checkpoint: str
    image: str
    of: Literal["encoder", "decoder"] = "encoder"
    point: tuple[float, float] | None = None
    object: int | None = None
    min_score: float = 0.3
    output: str | None = None
    device: Device = "auto"

    def __post_init__(self) -> None:
        require(self.object is None or self.object >= 1, "object", "null or at least 1, the best one", self.object)
        require(0 <= self.min_score <= 1, "min_score", "a score in [0, 1]", self.min_score)
        if self.point is not None:
            require(self.object is None, "object", "null beside a point: one of the two", self.object)
            require(self.of == "encoder", "of", "encoder with a point, for which no decoder query stands", self.of)


@dataclass(frozen=True)
@typed
class TrainingPlot:
    """The settings of conf/draw/training.yaml."""

    runs: tuple[str, ...]
    over: Literal["epoch", "step"] = "epoch"
    smoothing: float = 0.8
    output: str | None = None

    def __post_init__(self) -> None:
        require(len(self.runs) > 0, "runs", "at least one run folder", self.runs)
        require(0 <= self.smoothing < 1, "smoothing", "a number in [0, 1)", self.smoothing)


@dataclass(frozen=True)
@typed
class ScorePlot:
    """The settings of conf/draw/scores.yaml."""

    runs: tuple[str, ...] = ()
    checkpoint: str | None = None
    detections: str | None = None
    annotations: str | None = None
    iou: float = 0.5
    min_score: float = 0.3
    output: str | None = None
    batch_size: int = 8
    device: Device = "auto"

    def __post_init__(self) -> None:
        require(0 < self.iou <= 1, "iou", "an overlap in (0, 1]", self.iou)
        require(0 <= self.min_score <= 1, "min_score", "a score in [0, 1]", self.min_score)
        require(self.batch_size >= 1, "batch_size", "at least 1", self.batch_size)
        paired = (self.detections is None) == (self.annotations is None)
        require(paired, "detections, annotations", "both or neither", (self.detections, self.annotations))
        given = {"runs": self.runs, "checkpoint": self.checkpoint, "detections": self.detections}
        named = [name for name, value in given.items() if value]
        require(len(named) == 1, "runs, checkpoint, detections", "one of them, with annotations for the last", named)
