"""Detectors as things to be timed: a forward pass, the backbone's share of it, a training step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from litedetr.engine.checkpoint import checkpoint_file, load_detector, load_progress
from litedetr.engine.detect import Forward
from litedetr.engine.distributed import Ranks
from litedetr.engine.inference_model import inference_copy
from litedetr.engine.optim import WeightUpdate
from litedetr.engine.precision import autocast
from litedetr.engine.run_config import Precision, require_image_size
from litedetr.engine.schedule_config import ScheduleConfig
from litedetr.engine.train_step import TrainStep
from litedetr.losses import Criterion, LossConfig
from litedetr.models import Detector, DetectorConfig, build_detector
from litedetr.paths import user_path
from litedetr.settings import require
from litedetr.structures import ImageBatch, TargetBatch
from litedetr.tools.flops import count
from litedetr.tools.random_batch import random_images, random_targets

Step = Callable[[], object]


@dataclass(frozen=True)
class Setting:
    """What all contestants are timed on: random images of one size, and objects at random places to learn."""

    image_size: tuple[int, int]
    batch_size: int
    num_classes: int
    num_objects: int
    precision: Precision
    device: torch.device

    def __post_init__(self) -> None:
        require_image_size(self.image_size)
        for name in ("batch_size", "num_classes"):
            require(getattr(self, name) >= 1, f"models.{name}", "at least 1", getattr(self, name))
        require(self.num_objects >= 0, "models.num_objects", "at least 0", self.num_objects)

    def images(self) -> ImageBatch:
        return random_images(self.image_size, self.batch_size).to(self.device)

    def targets(self, num_classes: int) -> TargetBatch:
        return random_targets(self.image_size, self.batch_size, self.num_objects, num_classes).to(self.device)


@dataclass(frozen=True)
class Contestant:
    """steps: by name, `forward` (images to packed detections), `backbone` (its share) and, of our own, `training`.

    gflops: of one image, multiply-adds counted as in the paper. parameters: millions. ap: box AP, where one is known,
    and ap_source: whose it is.
    """

    name: str
    steps: dict[str, Step]
    gflops: float | None
    parameters: float
    ap: float | None = None
    ap_source: str = ""


def of_config(
    name: str, config: DetectorConfig, setting: Setting, ap: float | None = None, ap_source: str = ""
) -> Contestant:
    """A detector with random weights: its time does not depend on them."""
    torch.manual_seed(0)
    return _contestant(name, build_detector(config, setting.num_classes), setting, ap, ap_source)


def of_checkpoint(path: str, setting: Setting) -> Contestant:
    """A trained detector, with the best AP that its run had so far; named by its run folder."""
    file = checkpoint_file(path)
    loaded = load_detector(file)
    best = load_progress(file).best_score
    return _contestant(user_path(path).resolve().name, loaded.model, setting, best, "of its own validation set")


def _contestant(name: str, model: Detector, setting: Setting, ap: float | None, ap_source: str) -> Contestant:
    cost = count(model.config, setting.image_size, model.num_classes).total
    detecting, images = inference_copy(model, setting.device, setting.precision), setting.images()

    def backbone() -> object:
        with torch.no_grad(), autocast(setting.device, setting.precision):
            return detecting.backbone(images)

    # All that detection computes on the device: what follows, a list of detections, waits for it.
    forward = partial(Forward(detecting, setting.precision), images)
    steps = {"forward": forward, "backbone": backbone, "training": _training_step(model, setting)}
    return Contestant(name, steps, cost.published, cost.parameters, ap, ap_source)


def _training_step(model: Detector, setting: Setting) -> Step:
    """Forward and backward pass, losses, clipping and AdamW, as scripts/train.py does them."""
    model = model.to_device(setting.device).train()
    step = TrainStep(
        model=model,
        criterion=Criterion(LossConfig()),
        update=WeightUpdate.build(model, ScheduleConfig(), setting.precision),
        precision=setting.precision,
        seed=0,
        ranks=Ranks(setting.device),
    )
    batch = (setting.images(), setting.targets(model.num_classes))

    return partial(step, 0, [batch])
