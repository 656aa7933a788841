"""Settings of the pictures: what conf/draw/*.yaml holds and describes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from litedetr.engine.run_config import Device
from litedetr.settings import (
    Count,
    Many,
    Maybe,
    Number,
    Pair,
    Probability,
    Some,
    Text,
    require,
    settings,
)


@settings()
class AttentionPlot:
    """The settings of conf/draw/attention.yaml."""

    checkpoint: Text
    image: Text
    of: Literal["encoder", "decoder"] = "encoder"
    point: Maybe[Pair[Number]] = None
    object: Maybe[Count] = None
    min_score: Probability = 0.3
    output: Maybe[Text] = None
    device: Device = "auto"

    def __post_init__(self) -> None:
        if self.point is not None:
            require(self.object is None, "object", "null beside a point: one of the two", self.object)
            require(self.of == "encoder", "of", "encoder with a point, for which no decoder query stands", self.of)


@settings()
class TrainingPlot:
    """The settings of conf/draw/training.yaml."""

    runs: Some[Text]
    over: Literal["epoch", "step"] = "epoch"
    smoothing: Annotated[Number, Field(ge=0, lt=1)] = 0.8
    output: Maybe[Text] = None


@settings()
class ScorePlot:
    """The settings of conf/draw/scores.yaml."""

    runs: Many[Text] = ()
    checkpoint: Maybe[Text] = None
    detections: Maybe[Text] = None
    annotations: Maybe[Text] = None
    iou: Annotated[Number, Field(gt=0, le=1)] = 0.5
    min_score: Probability = 0.3
    output: Maybe[Text] = None
    batch_size: Count = 8
    device: Device = "auto"

    def __post_init__(self) -> None:
        paired = (self.detections is None) == (self.annotations is None)
        require(paired, "detections, annotations", "both or neither", (self.detections, self.annotations))
        given = {"runs": self.runs, "checkpoint": self.checkpoint, "detections": self.detections}
        named = [name for name, value in given.items() if value]
        require(len(named) == 1, "runs, checkpoint, detections", "one of them, with annotations for the last", named)
