"""Settings of scripts/benchmark.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from litedetr.engine.run_config import Device, Precision, require_image_size
from litedetr.kernels.bench.workloads import Regime
from litedetr.kernels.inputs import Score
from litedetr.settings import require

MOST_THREADS = 1024
Pass = Literal["forward", "training"]


@dataclass(frozen=True)
class ModelsConfig:
    """The section `models` of conf/benchmark.yaml."""

    systems: tuple[str, ...]
    checkpoints: tuple[str, ...]
    peers: tuple[Literal["rt_detr", "deformable_detr"], ...]
    passes: tuple[Pass, ...]
    batch_size: int
    precision: Precision
    num_classes: int
    num_objects: int

    def __post_init__(self) -> None:
        require(len(self.passes) > 0, "models.passes", "at least one", self.passes)
        for name in ("batch_size", "num_classes"):
            require(getattr(self, name) >= 1, f"models.{name}", "at least 1", getattr(self, name))
        require(self.num_objects >= 0, "models.num_objects", "at least 0", self.num_objects)


@dataclass(frozen=True)
class KernelsConfig:
    """The section `kernels` of conf/benchmark.yaml."""

    scores: tuple[Score, ...]
    queries: tuple[Literal["high", "low", "all", "decoder"], ...]
    regimes: tuple[Regime, ...]
    dtypes: tuple[Literal["float32", "float16", "bfloat16"], ...] | None
    passes: tuple[Pass, ...]
    peers: tuple[Literal["reference", "compiled", "unfused", "deformops", "deformops_fp32"], ...]
    batch_size: int
    heads: int
    channels: int
    points: int

    def __post_init__(self) -> None:
        for name in ("scores", "queries", "regimes", "passes"):
            require(len(getattr(self, name)) > 0, f"kernels.{name}", "at least one", getattr(self, name))
        require(self.dtypes != (), "kernels.dtypes", "null or at least one", self.dtypes)
        for name in ("batch_size", "heads", "channels", "points"):
            require(getattr(self, name) >= 1, f"kernels.{name}", "at least 1", getattr(self, name))


@dataclass(frozen=True)
class ScaleConfig:
    """The section `scale` of conf/benchmark.yaml."""

    system: str
    sides: tuple[int, ...]  # of square images in pixels: forward passes
    training_sides: tuple[int, ...]  # the same of training steps
    usual_objects: int  # in these images
    objects: tuple[int, ...]  # in an image of `usual_side`: training steps, and their losses only
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
        number = len(self.sides) + len(self.training_sides) + len(self.objects)
        require(number > 0, "scale", "at least one side or number of objects", self.sides)


@dataclass(frozen=True)
class BenchmarkConfig:
    """The settings of conf/benchmark.yaml."""

    rows: tuple[Literal["models", "kernels", "scale"], ...]
    image_size: tuple[int, int]
    device: Device
    rounds: int | None
    threads: int | None
    output: str
    models: ModelsConfig
    kernels: KernelsConfig
    scale: ScaleConfig

    def __post_init__(self) -> None:
        for name in ("rounds", "threads"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, "at least 1", value)
        few = self.threads is None or self.threads <= MOST_THREADS
        require(few, "threads", f"null or at most {MOST_THREADS}", self.threads)
        require(len(self.rows) > 0, "rows", "at least one", self.rows)
        require_image_size(self.image_size)
