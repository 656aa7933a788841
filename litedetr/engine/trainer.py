"""The training loop."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

from litedetr.engine.batches import StepBatches
from litedetr.engine.checkpoint import save_checkpoint
from litedetr.engine.coco_metrics import Scores
from litedetr.engine.evaluation_loop import Evaluator
from litedetr.engine.lr_schedule import LRSchedule
from litedetr.engine.run_config import TrainerConfig
from litedetr.engine.run_folder import RunFolder
from litedetr.engine.run_report import RunReport
from litedetr.engine.state import TrainingState
from litedetr.engine.train_step import TrainStep
from litedetr.faults.messages import resume_advice
from litedetr.faults.signals import Interrupted


@dataclass
class Trainer:
    """A training run, as `build_trainer` assembles it. All ranks do the same; only the main one writes and prints."""

    config: TrainerConfig
    folder: RunFolder
    lr_schedule: LRSchedule
    batches: StepBatches
    state: TrainingState
    train_step: TrainStep
    evaluator: Evaluator
    report: RunReport
    scores: Scores | None = field(default=None, init=False)  # of the last evaluation, on the main rank

    def run(self) -> Scores | None:
        """Train to the end and evaluate. Returns the final scores on the main rank, None on others.

        Returns None too if trainer.stop_after ends the run. Raises Interrupted after SIGTERM, SIGINT or SIGHUP, with
        the state saved, NonFiniteError if the loss or the gradient is not finite, StorageError if a file of the run
        cannot be written, and LoaderError if a loader process fails.
        """
        timer, tracker, stop = self.report.timer, self.report.tracker, self.train_step.stop
        with resume_advice(self.folder.how_to_resume), stop, tracker, self.batches.loader, self.evaluator.batches:
            if self._evaluation_due():  # the run ended while it evaluated
                self._evaluate()
            batches = self.batches.from_step(self.state.progress.step)
            timer.restart()
            total = self.lr_schedule.total_steps
            for step in range(self.state.progress.step, min(total, self.config.stop_after or total)):
                with timer.waiting():
                    micro_batches = next(batches)
                factor = self.lr_schedule.factor(step)
                self.state.update.set_learning_rate(factor)
                result = self.train_step(step, micro_batches)
                self.state.finish_step()
                self.report.step(step + 1, result, factor)
                if result.stop_signal or self._saving_due():
                    self._save(self.folder.last)
                self._leave_if_asked(result.stop_signal)
                if self._evaluation_due():
                    self._evaluate()
                    timer.restart()
            self._finish()
        return self.scores

    def _saving_due(self) -> bool:
        """Whether to save now. Also before an evaluation: it takes long, and it can be done again."""
        return self.state.progress.step % self.config.checkpoint_every == 0 or self._evaluation_due()

    def _evaluation_due(self) -> bool:
        """Whether the weights of this step are to be evaluated and have not been."""
        step, every = self.state.progress.step, self.config.evaluate_every
        if step == self.state.progress.evaluated_step:
            return False
        periodic = every is not None and step % (every * self.lr_schedule.steps_per_epoch) == 0
        return periodic or step >= self.lr_schedule.total_steps

    def _evaluate(self) -> None:
        evaluation = self.evaluator(
            self.state.evaluated_model, after_batch=lambda: self._leave_if_asked(self.train_step.stop.signum)
        )
        progress = self.state.progress = replace(self.state.progress, evaluated_step=self.state.progress.step)
        if evaluation is None:  # not the main rank
            return
        self.scores = evaluation.scores
        self.report.evaluation(progress.step, evaluation)
        if progress.is_best(self.scores.ap):
            best_score = None if math.isnan(self.scores.ap) else self.scores.ap
            self.state.progress = replace(progress, best_score=best_score)
            self._save(self.folder.best)
        self._save(self.folder.last)

    def _save(self, path: Path) -> None:
        if self.train_step.ranks.is_main:
            save_checkpoint(path, self.state.checkpoint())

    def _leave_if_asked(self, signum: int) -> None:
        if signum:
            raise Interrupted(signum, self.folder.left_after(self.state.progress.step))

    def _finish(self) -> None:
        if self.state.progress.step < self.lr_schedule.total_steps:
            self._save(self.folder.last)
            self.report.stopped(self.state.progress.step)
        elif self.scores is not None:
            self.report.results(self.state.progress, self.scores, self.folder)
