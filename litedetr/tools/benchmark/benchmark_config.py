"""Settings of scripts/benchmark.py."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from litedetr.engine.run_config import Device, ImageSize, PixelCount, Precision
from litedetr.kernels.bench.workloads import Regime
from litedetr.kernels.inputs import Score
from litedetr.settings import Count, Many, Maybe, NotNegative, Some, Text, require, settings

Pass = Literal["forward", "training"]
Queries = Literal["high", "low", "all", "decoder"]


@settings("models")
class ModelsConfig:
    """The section `models` of conf/benchmark.yaml."""

    systems: Many[Text]
    checkpoints: Many[Text]
    peers: Many[Literal["rt_detr", "deformable_detr"]]
    passes: Some[Pass]
    batch_size: Count
    precision: Precision
    num_classes: Count
    num_objects: NotNegative


@settings("kernels")
class KernelsConfig:
    """The section `kernels` of conf/benchmark.yaml."""

    scores: Some[Score]
    queries: Some[Queries]
    regimes: Some[Regime]
    dtypes: Maybe[Some[Literal["float32", "float16", "bfloat16"]]]
    passes: Some[Pass]
    peers: Many[Literal["reference", "compiled", "unfused", "deformops", "deformops_fp32"]]
    batch_size: Count
    heads: Count
    channels: Count
    points: Count


@settings("scale")
class ScaleConfig:
    """The section `scale` of conf/benchmark.yaml."""

    system: Text
    sides: Many[PixelCount]  # of square images: forward passes
    training_sides: Many[PixelCount]  # the same of training steps
    usual_objects: NotNegative  # in these images
    objects: Many[NotNegative]  # in an image of `usual_side`: training steps, and their losses only
    usual_side: PixelCount
    num_classes: Count
    precision: Precision

    def __post_init__(self) -> None:
        number = len(self.sides) + len(self.training_sides) + len(self.objects)
        require(number > 0, "scale", "at least one side or number of objects", self.sides)


@settings("instructions")
class InstructionsConfig:
    """The section `instructions` of conf/benchmark.yaml."""

    target: Text
    scores: Some[Score]
    queries: Some[Queries]
    dtypes: Some[Literal["float32", "float16", "bfloat16"]]
    passes: Some[Literal["forward", "backward", "segments"]]
    peers: Many[Literal["deformops", "deformops_fp32", "roulbac", "rziga", "alexander0yang"]]
    sources: Maybe[Text]
    name: Text


@settings()
class BenchmarkConfig:
    """The settings of conf/benchmark.yaml."""

    rows: Some[Literal["models", "kernels", "scale", "instructions"]]
    image_size: ImageSize
    device: Device
    rounds: Maybe[Count]
    threads: Maybe[Annotated[Count, Field(le=1024)]]
    output: Text
    models: ModelsConfig
    kernels: KernelsConfig
    scale: ScaleConfig
    instructions: InstructionsConfig
