"""Detectors as things to be timed: a forward pass, the backbone's share of it, a training step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from litedetr.engine.checkpoint import checkpoint_file, load_detector, load_progress
from litedetr.engine.detect import Forward, inference_copy
from litedetr.engine.distributed import Ranks
from litedetr.engine.optim import WeightUpdate
from litedetr.engine.precision import autocast
from litedetr.engine.run_config import beside_model, detector_config
from litedetr.engine.schedule_config import ScheduleConfig
from litedetr.engine.train_step import TrainStep
from litedetr.kernels.bench.cuda_gpu import Step
from litedetr.losses import Criterion, LossConfig
from litedetr.models import Detector, DetectorConfig, build_detector
from litedetr.paths import user_path
from litedetr.settings import ConfigError
from litedetr.tools.composition import Compose
from litedetr.tools.flops.count import FlopsConfig, count
from litedetr.tools.random_batch import RandomBatch


@dataclass(frozen=True)
class Conditions:
    """What all detectors are timed on, and where."""

    batch: RandomBatch
    device: torch.device


@dataclass(frozen=True)
class TimedDetector:
    """A detector, and what of it can be timed."""

    name: str
    steps: dict[str, Step]  # `forward` (images to packed detections), `backbone` (its share) and, of ours, `training`
    gflops: float | None  # of one image, multiply-adds counted as in the paper
    parameters: float  # millions
    ap: float | None = None  # box AP, if one is known
    ap_source: str = ""  # whose it is


def of_settings(text: str, name: str, compose: Compose) -> DetectorConfig:
    """The detector of settings for conf/flops.yaml, which the setting `name` gives; ConfigError for one that nothing
    reads.
    """
    try:
        settings = compose("flops", text.split())
    except ConfigError as error:
        raise ConfigError(f"{name}: expected settings for conf/flops.yaml, got {text!r}: {error}") from None
    beside_model(settings, FlopsConfig)
    return detector_config(settings)


def of_config(
    name: str, config: DetectorConfig, conditions: Conditions, ap: float | None = None, ap_source: str = ""
) -> TimedDetector:
    """A detector with random weights: its time does not depend on them."""
    torch.manual_seed(0)
    return _timed(name, build_detector(config, conditions.batch.num_classes), conditions, ap, ap_source)


def of_checkpoint(path: str, conditions: Conditions) -> TimedDetector:
    """A trained detector, with the best AP that its run had so far; named by its run folder."""
    file = checkpoint_file(path)
    best = load_progress(file).best_score
    name = user_path(path).resolve().name
    return _timed(name, load_detector(file).model, conditions, best, "of its own validation set")


def _timed(name: str, model: Detector, conditions: Conditions, ap: float | None, ap_source: str) -> TimedDetector:
    cost = count(model.config, conditions.batch.image_size, model.num_classes).total
    detecting = inference_copy(model, conditions.device, conditions.batch.precision)
    images = conditions.batch.images(conditions.device)

    def backbone() -> object:
        with torch.no_grad(), autocast(conditions.device, conditions.batch.precision):
            return detecting.backbone(images)

    # All that detection computes on the device: what follows, a list of detections, waits for it.
    forward = partial(Forward(detecting, conditions.batch.precision), images)
    steps = {"forward": forward, "backbone": backbone, "training": _training_step(model, conditions)}
    return TimedDetector(name, steps, cost.published, cost.parameters, ap, ap_source)


def _training_step(model: Detector, conditions: Conditions) -> Step:
    """Forward and backward pass, losses, clipping and AdamW, as scripts/train.py does them."""
    model = model.to_device(conditions.device).train()
    step = TrainStep(
        model=model,
        criterion=Criterion(LossConfig()),
        update=WeightUpdate.build(model, ScheduleConfig(), conditions.batch.precision),
        precision=conditions.batch.precision,
        seed=0,
        ranks=Ranks(conditions.device),
    )
    batch = (conditions.batch.images(conditions.device), conditions.batch.targets(conditions.device, model.num_classes))
    return partial(step, 0, [batch])
