"""The smallest run that is still a real one: the embedded data, a detector of a few thousand weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from litedetr.data import DataConfig, ShapesConfig, TransformConfig
from litedetr.engine.build_trainer import build_trainer
from litedetr.engine.distributed import Ranks
from litedetr.engine.optim import WeightUpdate
from litedetr.engine.run_config import RunConfig, TrainerConfig
from litedetr.engine.run_folder import RunFolder
from litedetr.engine.schedule_config import ScheduleConfig
from litedetr.engine.train_step import TrainStep
from litedetr.engine.trainer import Trainer
from litedetr.losses import Criterion, LossConfig
from litedetr.models import build_detector
from litedetr.models.detector_config import (
    AttentionConfig,
    BackboneConfig,
    DecoderConfig,
    DenoisingConfig,
    DetectorConfig,
    EncoderConfig,
    NeckConfig,
    QuerySelectionConfig,
)

MODEL = DetectorConfig(
    backbone=BackboneConfig(name="resnet18", norm="group", frozen_stages=0, width=8),
    neck=NeckConfig(channels=16, num_levels=2, norm_groups=4),
    encoder=EncoderConfig(num_high_levels=1, num_high_layers=1, num_blocks=1, feedforward=16),
    attention=AttentionConfig(num_heads=2, num_points=2),
    query_selection=QuerySelectionConfig(num_queries=8),
    denoising=DenoisingConfig(num_pairs=6),
    decoder=DecoderConfig(num_layers=2, feedforward=16),
)


def run_config(cache: Path, schedule: dict[str, Any] | None = None, trainer: dict[str, Any] | None = None) -> RunConfig:
    """12 training and 5 validation images; 3 steps an epoch, 2 epochs."""
    shapes = ShapesConfig(cache=str(cache), num_train=12, num_val=5, min_side=48, max_side=64, max_objects=3)
    transforms = TransformConfig(train_sides=(), max_side=1333, eval_side=None, flip=0.5, crop=False)
    usual = ScheduleConfig(max_epochs=2, milestones=(1,), lr=1e-3, batch_size=4, ema_decay=0.9)
    return RunConfig(
        data=DataConfig(name="shapes", transforms=transforms, shapes=shapes),
        model=MODEL,
        schedule=replace(usual, **(schedule or {})),
        trainer=replace(TrainerConfig(device="cpu", log_every=1, num_pictures=1), **(trainer or {})),
    )


def build_step(
    ranks: Ranks, dtype: torch.dtype = torch.float32, precision: str = "fp32", system: dict | None = None, **denoising
) -> TrainStep:
    """A step of the tiny detector, from weights that are always the same."""
    torch.manual_seed(0)
    config = replace(MODEL, **(system or {"denoising": DenoisingConfig(num_pairs=6, **denoising)}))
    model = build_detector(config, 5).to(dtype).train()
    return TrainStep(
        model=model,
        criterion=Criterion(LossConfig()),
        update=WeightUpdate.build(model, ScheduleConfig(clip_norm=None), precision),
        precision=precision,
        seed=0,
        ranks=ranks,
    )


def train(config: RunConfig, folder: Path, ranks: Ranks) -> Trainer:
    """Run to the end, or to stop_after; continue where `folder` holds a checkpoint."""
    last = folder / "last.pt"
    trainer = build_trainer(config, RunFolder(folder, last if last.exists() else None, "test"), ranks)
    trainer.run()
    return trainer


def metrics(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]
