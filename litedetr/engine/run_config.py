"""Settings of a training run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields
from itertools import chain
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from litedetr.data import DataConfig
from litedetr.engine.schedule_config import ScheduleConfig
from litedetr.losses import LossConfig
from litedetr.models import DetectorConfig
from litedetr.models.detector_config import Layers
from litedetr.settings import (
    Count,
    Flag,
    Integer,
    Maybe,
    NotNegative,
    Pair,
    Text,
    as_type,
    from_mapping,
    require,
    require_known,
    settings,
)

Precision = Literal["fp32", "bf16", "fp16"]
Device = Literal["auto", "cpu", "cuda"]
ENCODER_SHORTHANDS = {"a": "num_high_layers", "b": "num_blocks"}  # of conf/encoder/*.yaml: what refers to them
# The settings that a model's groups set; some, such as conf/size/small.yaml, set weights of the loss too.
MODEL_SETTINGS = (*(field.name for field in fields(DetectorConfig)), *ENCODER_SHORTHANDS, "loss")
PixelCount = Annotated[Integer, Field(ge=1, le=2**16)]
ImageSize = Pair[PixelCount]  # height, width


@settings("gpu")
class GpuSettings:
    """What PyTorch may do on a GPU for speed that changes the last bits of results or costs time at first.

    The defaults leave PyTorch as it is; what pays was not yet measured on a GPU.
    """

    # Which fp32 products keep 10 bits of the mantissa; default: convolutions, unless PyTorch was told otherwise.
    tf32: Literal["default", "never", "convolutions", "always"] = "default"
    cudnn_benchmark: Flag = False  # time all algorithms of a convolution at each new size: for few sizes

    def apply(self) -> None:
        """Set PyTorch's switches of this process."""
        torch.backends.cudnn.benchmark = self.cudnn_benchmark
        if self.tf32 != "default":
            torch.backends.cudnn.allow_tf32 = self.tf32 != "never"
            torch.backends.cuda.matmul.allow_tf32 = self.tf32 == "always"


@settings("trainer")
class TrainerConfig:
    """How a run is carried out; none of it changes what is learned, but for `precision` and `init_from`."""

    device: Device = "auto"  # auto: the GPU if there is one
    precision: Precision = "fp32"
    gpu: GpuSettings = field(default_factory=GpuSettings)
    compile: Flag = False  # torch.compile of the backbone and of the layers of encoder and decoder
    deterministic: Flag = False  # reject operations whose result differs from run to run
    checkpoint_every: Count = 100  # optimiser steps
    evaluate_every: Maybe[Count] = 1  # epochs; None: at the end only
    log_every: Count = 10  # optimiser steps
    # auto: from the run's last checkpoint if there is one; never: anew; or the checkpoint or run folder to continue
    resume: Text = "never"
    # checkpoint of the same model whose weights a new run starts from, or a run folder (its best.pt); with another
    # number of classes, class heads and label embeddings start anew
    init_from: Maybe[Text] = None
    num_pictures: NotNegative = 8  # validation images drawn at each evaluation
    stop_after: Maybe[Count] = None  # leave at this step, to be resumed

    def __post_init__(self) -> None:
        alike = not (self.deterministic and self.gpu.cudnn_benchmark)  # timings choose, and sum in another order
        require(alike, "trainer.gpu.cudnn_benchmark", "false with trainer.deterministic=true", True)


@settings()
class RunConfig:
    """Everything that a training run is made from."""

    data: DataConfig
    model: DetectorConfig = field(default_factory=DetectorConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    seed: NotNegative = 0

    def __post_init__(self) -> None:
        # A step that overflowed would have to be left out by both optimisers, without asking the device.
        precision, optimizer = self.trainer.precision, self.schedule.optimizer
        can = precision != "fp16" or optimizer != "muon"
        advice = "schedule.optimizer=adamw goes together with fp16"
        require(can, "trainer.precision", "fp32 or bf16 with schedule.optimizer=muon", precision, advice)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> RunConfig:
        """From the settings of conf/train.yaml, which has the model's parts and `resume` at the top level."""
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
    shorthands = {name: settings[name] for name in ENCODER_SHORTHANDS if settings.get(name) is not None}
    for name, value in shorthands.items():
        as_type(Layers, value, name)
    model = from_mapping(DetectorConfig, {name: value for name, value in settings.items() if name in parts})
    for name, value in shorthands.items():
        taken = model.encoder.takes(ENCODER_SHORTHANDS[name])
        require(taken, name, f"null with encoder.update={model.encoder.update}", value)
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
