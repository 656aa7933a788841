"""Everything that training changes: weights, moments, averages, progress; saved to and restored from a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from litedetr.data import Categories
from litedetr.engine.changed_settings import changed_settings
from litedetr.engine.checkpoint import Checkpoint, CheckpointError, Progress, checkpoint_file, load_weights
from litedetr.engine.ema import ModelAverage
from litedetr.engine.fine_tune import initialise_from
from litedetr.engine.optim import WeightUpdate
from litedetr.engine.resume import checkpoint_to_continue
from litedetr.engine.run_config import RunConfig
from litedetr.engine.schedule_config import ScheduleConfig
from litedetr.models import Detector, build_detector, load_backbone_weights
from litedetr.settings import require, to_mapping


@dataclass
class TrainingState:
    """Weights, moments and averages, and how far the run has come."""

    config: RunConfig
    categories: Categories
    steps_per_epoch: int
    model: Detector
    update: WeightUpdate
    average: ModelAverage | None  # None without averaging
    progress: Progress = field(default_factory=Progress)  # moves on with every step

    @classmethod
    def initial(
        cls, config: RunConfig, categories: Categories, steps_per_epoch: int, device: torch.device
    ) -> TrainingState:
        """A state on `device` with random weights from config.seed; `begin` or `restore` completes it."""
        torch.manual_seed(config.seed)
        model = build_detector(config.model, len(categories.ids)).to_device(device).train()
        update = WeightUpdate.build(model, config.schedule, config.trainer.precision)
        decay = config.schedule.ema_decay
        average = None if decay is None else ModelAverage(model, decay)
        return cls(config, categories, steps_per_epoch, model, update, average)

    @property
    def evaluated_model(self) -> nn.Module:
        return self.model if self.average is None else self.average.model

    def finish_step(self) -> None:
        """After an optimiser step: the average follows the weights, and progress moves on."""
        if self.average is not None:
            self.average.update(self.model, self.progress.step)
        self.progress = replace(self.progress, step=self.progress.step + 1)

    def checkpoint(self) -> Checkpoint:
        return Checkpoint(
            config=to_mapping(self.config),
            categories=self.categories,
            model=self.model.state_dict(),
            ema=None if self.average is None else self.average.model.state_dict(),
            optimizer=self.update.moments(self.model),
            scaler=self.update.scaler.state_dict(),
            progress=self.progress,
            steps_per_epoch=self.steps_per_epoch,
        )

    def restore(self, path: Path) -> list[str]:
        """Continue from a checkpoint. Returns the settings that have changed; CheckpointError if it does not fit."""
        checkpoint = checkpoint_to_continue(path)
        changed = changed_settings(checkpoint, self.config)
        self._check_fits(checkpoint, path)
        load_weights(self.model, checkpoint.model, path)
        self.update.load_moments(self.model, checkpoint.optimizer)
        if self.average is not None:
            load_weights(self.average.model, checkpoint.weights, path)
        if checkpoint.scaler and self.update.scaler.is_enabled():
            self.update.scaler.load_state_dict(checkpoint.scaler)
        self.progress = checkpoint.progress
        return changed

    def begin(self) -> list[str]:
        """Take the pre-trained weights that a new run starts from. Returns what was taken and what was not.

        ConfigError if parts of the backbone that are not trained would stay random.
        """
        notes = []
        backbone, init_from = self.config.model.backbone, self.config.trainer.init_from
        has_weights = init_from is not None or backbone.weights is not None
        expected = (
            "a checkpoint, or else backbone.weights: the first stages of the backbone are not trained "
            f"(backbone.frozen_stages={backbone.frozen_stages}) and would stay random"
        )
        require(has_weights or backbone.frozen_stages == 0, "trainer.init_from", expected, init_from)
        if backbone.weights is not None:
            load_backbone_weights(self.model.backbone, backbone.weights)
            notes.append(f"backbone weights from {backbone.weights}")
        if init_from is not None:
            start = initialise_from(self.model, self.categories, init_from)
            left = ", ".join(start.left) or "none"
            taken = f"{start.taken} tensors from {checkpoint_file(init_from)}"
            notes += [f"{taken}; left at their initial values: {left}", *start.notes]
        if self.average is not None:
            self.average.model.load_state_dict(self.model.state_dict())
        return notes

    def _check_fits(self, checkpoint: Checkpoint, path: Path) -> None:
        if checkpoint.categories != self.categories:
            advice = "take another run=... name, and trainer.init_from=... for all weights but the classes'"
            raise CheckpointError(f"{path}: trained on other classes: {advice}")
        if checkpoint.steps_per_epoch != self.steps_per_epoch:
            raise CheckpointError(
                f"{path}: an epoch had {checkpoint.steps_per_epoch} steps and has {self.steps_per_epoch} now: "
                "schedule.batch_size and the training set must stay the same"
            )
        optimizer = checkpoint.config.get("schedule", {}).get("optimizer", ScheduleConfig.optimizer)
        expected = f"{optimizer}, whose moments {path} has; or else another run=... name and trainer.init_from=..."
        ours = self.config.schedule.optimizer
        require(optimizer == ours, "schedule.optimizer", expected, ours)
