"""From settings to a trainer: data, model, optimiser, and the checkpoint that the run resumes from."""

from __future__ import annotations

from dataclasses import replace

from litedetr.data import DatasetPair, TransformConfig, build_datasets
from litedetr.engine.batches import StepBatches, steps_per_epoch
from litedetr.engine.distributed import Ranks
from litedetr.engine.evaluation_loop import Evaluator
from litedetr.engine.loader import build_loader, loader_settings
from litedetr.engine.lr_schedule import LRSchedule, schedule_warnings
from litedetr.engine.run_config import RunConfig
from litedetr.engine.run_folder import RunFolder
from litedetr.engine.run_report import RunReport
from litedetr.engine.state import TrainingState
from litedetr.engine.tracker import SilentTracker, Tracker
from litedetr.engine.train_step import TrainStep
from litedetr.engine.trainer import Trainer
from litedetr.losses import Criterion


def build_trainer(config: RunConfig, folder: RunFolder, ranks: Ranks) -> Trainer:
    """Assemble a run of `config` in `folder`, new or at the step of the checkpoint `folder.resume_from`.

    Raises ConfigError or CheckpointError for what cannot work, before any file is written.
    """
    settings = loader_settings(config, ranks)
    data = build_datasets(config.data, config.seed)
    grad_accum_steps = config.schedule.grad_accum_steps
    lr_schedule = LRSchedule(config.schedule, steps_per_epoch(len(data.train), settings, ranks, grad_accum_steps))
    closing = lr_schedule.num_epochs - config.data.transforms.closing_epochs
    batches = StepBatches(data.train.without_augmentations_from(closing), settings, ranks, grad_accum_steps)
    evaluator = Evaluator(data.val, build_loader(data.val, settings, ranks), config.trainer.precision, ranks)
    state = TrainingState.initial(config, data.train.categories, batches.steps_per_epoch, ranks.device)
    start = _start(state, folder, lr_schedule.total_steps)
    if config.trainer.compile:
        state.model.compile_parts()
    model, criterion = ranks.share_gradients(state.model), Criterion(config.loss)
    train_step = TrainStep(model, criterion, state.update, config.trainer.precision, config.seed, ranks)
    tracker = Tracker(folder, state.progress, lr_schedule.total_steps) if ranks.is_main else SilentTracker()
    about_data = [*data.notes, *_crowded(config, data), *_closing(config.data.transforms, lr_schedule)]
    description = _description(state, data, lr_schedule, ranks)
    for note in [folder.note, description, *about_data, *start, *schedule_warnings(lr_schedule, config.trainer)]:
        tracker.say(note)
    report = RunReport(config, tracker, lr_schedule, data.val, ranks)
    return Trainer(config.trainer, folder, lr_schedule, batches, state, train_step, evaluator, report)


def _start(state: TrainingState, folder: RunFolder, total_steps: int) -> list[str]:
    """Give `state` its first weights, or those and the step of the checkpoint. Returns lines for the user."""
    if folder.resume_from is None:
        return state.begin()
    changed = state.restore(folder.resume_from)
    if not folder.best.exists():  # resumed in a new folder, which needs a best.pt of its own
        state.progress = replace(state.progress, best_score=None)
    step = state.progress.step
    where = f"at step {step} of {total_steps}"
    if step >= total_steps:
        state.progress = replace(state.progress, evaluated_step=None)
        beyond = f"at step {step}, beyond the {total_steps} steps of this schedule" if step > total_steps else where
        where = f"{beyond}: nothing is left to train, the weights are evaluated once more"
    return [where, *(f"changed since the checkpoint: {line}" for line in changed)]


def _description(state: TrainingState, data: DatasetPair, lr_schedule: LRSchedule, ranks: Ranks) -> str:
    num_parameters = sum(p.numel() for p in state.model.parameters() if p.requires_grad)
    return (
        f"{num_parameters / 1e6:.1f} M trained parameters, {len(state.categories.ids)} classes, "
        f"{len(data.train)} training and {len(data.val)} validation images "
        f"with {data.train.object_counts.sum()} and {data.val.object_counts.sum()} objects, "
        f"{lr_schedule.total_steps} steps of {state.config.schedule.batch_size} images, "
        f"{ranks.world_size} x {ranks.device.type}, {state.config.trainer.precision}"
    )


def _crowded(config: RunConfig, data: DatasetPair) -> list[str]:
    """What becomes of images with more objects than the detector has queries."""
    queries, counts = config.model.query_selection.num_queries, data.train.object_counts
    crowded = int((counts > queries).sum())
    if not crowded:
        return []
    return [
        f"{crowded} training images have more objects (up to {counts.max()}) than query_selection.num_queries "
        f"({queries}): those beyond are matched to no query"
    ]


def _closing(transforms: TransformConfig, lr_schedule: LRSchedule) -> list[str]:
    """When the closing phase begins; a warning if it is the whole run."""
    if not (transforms.augmentations and transforms.closing_epochs):
        return []
    augmented = lr_schedule.num_epochs - transforms.closing_epochs
    if augmented <= 0:
        return [
            f"warning: data.transforms.closing_epochs={transforms.closing_epochs} is not below the epochs of this run "
            f"({lr_schedule.num_epochs}): no image gets any of data.transforms.augmentations"
        ]
    step = augmented * lr_schedule.steps_per_epoch
    return [f"data.transforms.augmentations end at step {step}, before the last {transforms.closing_epochs} epochs"]
