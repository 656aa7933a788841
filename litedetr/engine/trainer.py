"""The training loop."""

from __future__ import annotations

import json
import math
import signal
from dataclasses import replace
from pathlib import Path

from litedetr.data import build_datasets
from litedetr.engine.batches import StepBatches, evaluation_batches, loader_settings
from litedetr.engine.checkpoint import save_checkpoint
from litedetr.engine.coco_metrics import Scores, class_table, summary_table
from litedetr.engine.distributed import Ranks
from litedetr.engine.evaluator import Evaluation, Evaluator
from litedetr.engine.loader import LoaderError, MicroBatch, loader_failures_named
from litedetr.engine.lr_schedule import LRSchedule, schedule_warnings
from litedetr.engine.optim import set_learning_rate
from litedetr.engine.run_config import RunConfig
from litedetr.engine.run_folder import RunFolder
from litedetr.engine.sample_pictures import sample_picture
from litedetr.engine.state import TrainingState
from litedetr.engine.step_timer import Pace
from litedetr.engine.tracker import SilentTracker, Tracker
from litedetr.engine.train_step import StepResult, TrainStep
from litedetr.faults.files import StorageError, remove_leftovers, replacing
from litedetr.faults.signals import Interrupted, StopRequest
from litedetr.losses import Criterion


class Trainer:
    """Trains `config` in `folder`. All ranks do the same, but only the main one writes and prints."""

    def __init__(self, config: RunConfig, folder: RunFolder, ranks: Ranks) -> None:
        self.config, self.folder, self.ranks = config, folder, ranks
        settings = loader_settings(config, ranks)
        data = build_datasets(config.data, config.seed)
        self.train_set, self.val_set = data.train, data.val
        self.batches = StepBatches(data.train, settings, ranks, config.schedule.grad_accum_steps)
        self.lr_schedule = LRSchedule(config.schedule, self.batches.steps_per_epoch)
        self.stop = StopRequest()
        self.pace = Pace()
        self.val_batches = evaluation_batches(data.val, settings, ranks)
        self.evaluator = Evaluator(data.val, self.val_batches, config.trainer.precision, ranks)
        categories, steps_per_epoch = data.train.categories, self.batches.steps_per_epoch
        self.state = TrainingState.initial(config, categories, steps_per_epoch, ranks.device)
        notes = [folder.note, self._description(), *data.remarks, *self._crowded(), *self._restore()]
        notes += schedule_warnings(self.lr_schedule, config.trainer)
        self.train_step = self._build_train_step()
        self.tracker = self._build_tracker(notes)
        self.scores: Scores | None = None

    def _description(self) -> str:
        return (
            f"{self.state.num_parameters / 1e6:.1f} M trained parameters, {len(self.state.categories.ids)} classes, "
            f"{len(self.train_set)} training and {len(self.val_set)} validation images "
            f"with {self.train_set.object_counts.sum()} and {self.val_set.object_counts.sum()} objects, "
            f"{self.lr_schedule.total_steps} steps of {self.config.schedule.batch_size} images, "
            f"{self.ranks.world_size} x {self.ranks.device.type}, {self.config.trainer.precision}"
        )

    def _crowded(self) -> list[str]:
        """What becomes of images with more objects than the detector has queries."""
        queries, counts = self.config.model.query_selection.num_queries, self.train_set.object_counts
        crowded = int((counts > queries).sum())
        if not crowded:
            return []
        return [
            f"{crowded} training images have more objects (up to {counts.max()}) than query_selection.num_queries "
            f"({queries}): those beyond are matched to no query"
        ]

    def _restore(self) -> list[str]:
        if self.folder.resume_from is not None:
            changed = self.state.restore(self.folder.resume_from)
            if not self.folder.best.exists():  # in another folder: the best weights to come shall be kept there
                self.state.progress = replace(self.state.progress, best_score=None)
            step, total = self.state.progress.step, self.lr_schedule.total_steps
            where = f"at step {step} of {total}"
            if step >= total:
                self.state.progress = replace(self.state.progress, evaluated_step=step - 1)
                beyond = f"at step {step}, beyond the {total} steps of this schedule" if step > total else where
                where = f"{beyond}: nothing is left to train, the weights are evaluated once more"
            return [where, *(f"changed since the checkpoint: {line}" for line in changed)]
        return self.state.begin()

    def _build_train_step(self) -> TrainStep:
        model = self.state.model
        if self.config.trainer.compile:
            model.compile_parts()
        return TrainStep(
            model=self.ranks.share_gradients(model),
            criterion=Criterion(self.config.loss),
            optimizer=self.state.optimizer,
            scaler=self.state.scaler,
            precision=self.config.trainer.precision,
            clip_norm=self.config.schedule.clip_norm,
            seed=self.config.seed,
            ranks=self.ranks,
            stop=self.stop,
        )

    def _build_tracker(self, notes: list[str]) -> SilentTracker:
        if not self.ranks.is_main:
            return SilentTracker()
        self.folder.path.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.folder.path)
        tracker = Tracker(self.folder, self.state.progress, self.lr_schedule.total_steps)
        for note in notes:
            tracker.say(note)
        return tracker

    def run(self) -> Scores | None:
        """Train to the end and evaluate. Returns the final scores on the main rank, None on others.

        None too where trainer.stop_after ends the run. Raises Interrupted after SIGTERM, SIGINT or SIGHUP, with the
        state saved, NonFiniteError where the loss or the gradient is not finite, StorageError where a file of the run
        cannot be written, and LoaderError where a loader process fails.
        """
        try:
            with loader_failures_named(), self.stop, self.tracker, self.batches.loader, self.val_batches:
                self._train()
        except (StorageError, LoaderError) as error:
            raise type(error)(f"{error}. {self._way_on()}") from error
        return self.scores

    def _way_on(self) -> str:
        if not self.folder.last.exists():
            return "Nothing was saved yet"
        return f"The last checkpoint is intact: resume={self.folder.path} continues from it"

    def _train(self) -> None:
        total = self.lr_schedule.total_steps
        end = min(total, self.config.trainer.stop_after or total)
        if self._evaluation_due():  # the run ended while it evaluated
            self._evaluate()
        batches = self.batches.from_step(self.state.progress.step)
        self.pace.restart()
        for step in range(self.state.progress.step, end):
            with self.pace.waiting():
                micro_batches = next(batches)
            self._step(step, micro_batches)
            self._note_waiting()
            if self._evaluation_due():
                self._evaluate()
                self.pace.restart()
        if self.state.progress.step < total:
            self._save(self.folder.last)
            self.tracker.say(f"stopped at step {self.state.progress.step} of {total} (trainer.stop_after)")
        else:
            self._finish()

    def _step(self, step: int, batches: list[MicroBatch]) -> None:
        factor = self.lr_schedule.factor(step)
        set_learning_rate(self.state.optimizer, factor)
        result = self.train_step(step, batches)
        if self.state.average is not None:
            self.state.average.update(self.state.model, step)
        done = step + 1
        self.state.progress = replace(self.state.progress, step=done)
        rate = self.config.schedule.lr * factor
        self.tracker.advance(result.loss, rate)
        if done % self.config.trainer.log_every == 0:
            self._log(done, result, rate)
        # Before an evaluation too: it takes long, and it can be done again.
        if result.stop_signal or done % self.config.trainer.checkpoint_every == 0 or self._evaluation_due():
            self._save(self.folder.last)
        if result.stop_signal:
            raise Interrupted(result.stop_signal, self._farewell(result.stop_signal))

    def _log(self, step: int, result: StepResult, rate: float) -> None:
        lap = self.pace.lap()
        own = result.read_parts()
        shares = self.ranks.gather_numbers(lap.data_share, *own.values())
        waited, *of_parts = zip(*shares, strict=True)
        parts = {name: sum(share) for name, share in zip(own, of_parts, strict=True)}
        speed = lap.steps * self.config.schedule.batch_size / lap.seconds
        numbers = {"epoch": step / self.lr_schedule.steps_per_epoch, "loss": result.loss, "lr": rate}
        numbers |= {"grad_norm": result.grad_norm, "images_per_second": speed, "data_share": max(waited)}
        self.tracker.train(step, numbers | parts)

    def _note_waiting(self) -> None:
        if self.state.progress.step % self.lr_schedule.steps_per_epoch == 0:
            note = self.pace.note(self.config.data.num_workers)
            if note:
                self.tracker.say(note)

    def _save(self, path: Path) -> None:
        if self.ranks.is_main:
            save_checkpoint(path, self.state.checkpoint())

    def _evaluation_due(self) -> bool:
        """Whether the weights of this step shall be evaluated and are not yet."""
        step, every = self.state.progress.step, self.config.trainer.evaluate_every
        if step == self.state.progress.evaluated_step:
            return False
        periodic = every is not None and step % (every * self.lr_schedule.steps_per_epoch) == 0
        return periodic or step >= self.lr_schedule.total_steps

    def _evaluate(self) -> None:
        evaluation = self.evaluator(self.state.evaluated_model, self._leave_evaluation_if_asked)
        progress = replace(self.state.progress, evaluated_step=self.state.progress.step)
        self.state.progress = progress
        if evaluation is None:
            return
        self.scores = evaluation.scores
        self.tracker.evaluation(progress.step, self.lr_schedule.epoch_of(progress.step), self.scores)
        self._draw(evaluation)
        best, ap = progress.best_score, self.scores.ap
        # Where no object counts, AP is undefined, and the latest weights are taken for the best.
        if best is None or math.isnan(ap) or ap > best:
            self.state.progress = replace(progress, best_score=None if math.isnan(ap) else ap)
            self._save(self.folder.best)
        self._save(self.folder.last)

    def _draw(self, evaluation: Evaluation) -> None:
        for image_id in self.val_set.image_ids[: self.config.trainer.num_pictures]:
            image, truth = self.val_set.load_image(image_id), self.evaluator.ground_truth
            picture = sample_picture(image, image_id, evaluation.detections, truth)
            self.tracker.picture(self.state.progress.step, f"image_{image_id}", picture)

    def _leave_evaluation_if_asked(self) -> None:
        if self.stop.signum:
            raise Interrupted(self.stop.signum, self._farewell(self.stop.signum))

    def _farewell(self, signum: int) -> str:
        name, step = signal.Signals(signum).name, self.state.progress.step
        return f"{name}: left after step {step}, saved in {self.folder.last}; resume={self.folder.path} continues"

    def _finish(self) -> None:
        if self.scores is None:
            return
        best = self.state.progress.best_score
        content = {"step": self.state.progress.step, "best_AP": best} | self.scores.to_mapping()
        with replacing(self.folder.results) as file:
            file.write(json.dumps(content, indent=2).encode())
        for text in (summary_table(self.scores), class_table(self.scores)):
            self.tracker.say("\n" + text)
        shown = "-" if best is None else f"{best:.3f}"
        self.tracker.say(
            f"\nbest AP {shown}: {self.folder.best}\nlast weights: {self.folder.last}\n"
            f"pictures: {self.folder.pictures}\nnumbers: {self.folder.metrics}, tensorboard --logdir {self.folder.path}"
        )
