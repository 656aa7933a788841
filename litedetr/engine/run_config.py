"""Settings of a training run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from itertools import chain
from typing import Any, Literal

from litedetr.data import DataConfig
from litedetr.engine.gpu_settings import GpuSettings
from litedetr.engine.schedule_config import ScheduleConfig
from litedetr.losses import LossConfig
from litedetr.models import DetectorConfig
from litedetr.settings import from_mapping, require, require_known, typed

Precision = Literal["fp32", "bf16", "fp16"]
Device = Literal["auto", "cpu", "cuda"]
ENCODER_SHORTHANDS = ("a", "b")  # conf/encoder/*.yaml: what encoder.num_high_layers and num_blocks refer to
# What a model's groups set: conf/size/small.yaml has weights of the loss too.
MODEL_SETTINGS = (*(field.name for field in fields(DetectorConfig)), *ENCODER_SHORTHANDS, "loss")
LARGEST_SIDE = 2**16  # pixels


@dataclass(frozen=True)
@typed
class TrainerConfig:
    """How a run is carried out; none of it changes what is learned, but for `precision` and `init_from`.

    device: `auto` takes the GPU where there is one. compile: torch.compile of the backbone and of the layers of encoder
    and decoder.
    deterministic: refuse operations whose result differs from run to run.
    checkpoint_every, log_every: in optimiser steps. evaluate_every: in epochs; None evaluates at the end only.
    resume: `auto` continues from the run's last checkpoint where there is one, `never` starts anew, anything else
    is the path of a checkpoint or of a run folder to continue.
    init_from: checkpoint of the same model whose weights a new run starts from, a file or a run folder (its best.pt);
    with another number of classes, class heads and label embeddings start anew.
    num_pictures: validation images drawn at each evaluation. stop_after: leave at this step, to be resumed.
    """

    device: Device = "auto"
    precision: Precision = "fp32"
    gpu: GpuSettings = field(default_factory=GpuSettings)
    compile: bool = False
    deterministic: bool = False
    checkpoint_every: int = 500
    evaluate_every: int | None = 1
    log_every: int = 10
    resume: str = "never"
    init_from: str | None = None
    num_pictures: int = 4
    stop_after: int | None = None

    def __post_init__(self) -> None:
        for name in ("checkpoint_every", "log_every"):
            require(getattr(self, name) >= 1, f"trainer.{name}", "at least 1", getattr(self, name))
        alike = not (self.deterministic and self.gpu.cudnn_benchmark)  # timings choose, and sum in another order
        require(alike, "trainer.gpu.cudnn_benchmark", "false with trainer.deterministic=true", True)
        require(self.num_pictures >= 0, "trainer.num_pictures", "at least 0", self.num_pictures)
        for name in ("evaluate_every", "stop_after"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"trainer.{name}", "null or at least 1", value)


@dataclass(frozen=True)
@typed
class RunConfig:
    """Everything that a training run is made from."""

    data: DataConfig
    model: DetectorConfig = field(default_factory=DetectorConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.seed >= 0, "seed", "at least 0", self.seed)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> RunConfig:
        """From the flat settings of conf/train.yaml, where the model's parts and `resume` stand at the top."""
        sections = ("data", "loss", "schedule", "seed")
        require_known(settings, (*MODEL_SETTINGS, "data", "schedule", "trainer", "run", "resume", "seed"))
        given = {name: settings[name] for name in sections if name in settings}
        parts = {"model": detector_config(settings), "trainer": _trainer_settings(settings)}
        return from_mapping(cls, given | parts)


def _trainer_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """With `resume`, which stands at the top."""
    trainer, resume = settings.get("trainer", {}), settings.get("resume", "never")
    require(isinstance(trainer, Mapping), "trainer", "a mapping with the settings of TrainerConfig", trainer)
    require("resume" not in trainer, "trainer.resume", "nothing: it is called resume", trainer.get("resume"))
    says_how = isinstance(resume, str) and resume.strip() != ""
    require(says_how, "resume", "auto, never or the path of a checkpoint or a run folder", resume)
    return {**trainer, "resume": resume}


def detector_config(settings: Mapping[str, Any]) -> DetectorConfig:
    """The detector of flat settings as those of conf/train.yaml; whatever else they hold is ignored."""
    parts = {field.name for field in fields(DetectorConfig)}
    model = from_mapping(DetectorConfig, {name: value for name, value in settings.items() if name in parts})
    for name in ENCODER_SHORTHANDS:
        used = name not in settings or model.encoder.update != "full"
        require(used, name, "nothing with encoder.update=full", settings.get(name))
    return model


def beside_model(settings: Mapping[str, Any], *classes: type) -> tuple[Any, ...]:
    """Of flat settings as those of conf/flops.yaml what is not the model's, as `classes`; ConfigError names a setting
    that nothing reads.
    """
    named = {cls: [field.name for field in fields(cls)] for cls in classes}
    require_known(settings, (*MODEL_SETTINGS, *chain(*named.values())))
    return tuple(
        from_mapping(cls, {name: settings[name] for name in names if name in settings}) for cls, names in named.items()
    )


def require_image_size(size: tuple[int, int]) -> None:
    """Raise ConfigError unless `size`, the setting image_size, is that of an image."""
    fits = min(size) >= 1 and max(size) <= LARGEST_SIDE
    require(fits, "image_size", f"[height, width] of 1 to {LARGEST_SIDE} pixels each", size)
