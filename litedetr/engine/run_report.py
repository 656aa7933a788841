"""What a run reports: numbers and pictures while it trains, results.json and tables at its end."""

from __future__ import annotations

import json

from litedetr.data import CocoDetection
from litedetr.engine.checkpoint import Progress
from litedetr.engine.coco_metrics import Scores, class_table, summary_table
from litedetr.engine.distributed import Ranks
from litedetr.engine.evaluation_loop import Evaluation
from litedetr.engine.lr_schedule import LRSchedule
from litedetr.engine.run_config import RunConfig
from litedetr.engine.run_folder import RunFolder
from litedetr.engine.sample_pictures import sample_picture
from litedetr.engine.step_result import StepResult, read_parts
from litedetr.engine.step_timer import StepTimer
from litedetr.engine.tracker import SilentTracker
from litedetr.faults.files import replacing
from litedetr.losses import LossPart
from litedetr.losses.parts import with_values


class RunReport:
    """Hands numbers, pictures and texts to the tracker. All ranks call it: parts of the loss are summed over them."""

    def __init__(
        self, config: RunConfig, tracker: SilentTracker, lr_schedule: LRSchedule, val_set: CocoDetection, ranks: Ranks
    ) -> None:
        self.config, self.tracker, self.lr_schedule = config, tracker, lr_schedule
        self.val_set, self.ranks = val_set, ranks
        self.timer = StepTimer()

    def step(self, step: int, result: StepResult, factor: float) -> None:
        """After optimiser step number `step`, from 1, at `factor` times the peak learning rate."""
        rate = self.config.schedule.lr * factor
        self.tracker.advance(result.loss, rate)
        if step % self.config.trainer.log_every == 0:
            numbers = {"epoch": step / self.lr_schedule.steps_per_epoch, "loss": result.loss, "lr": rate}
            measured, parts = self._measured(result)
            self.tracker.train(step, numbers | measured, parts)
        if step % self.lr_schedule.steps_per_epoch == 0:
            note = self.timer.note(self.config.data.num_workers)
            if note:
                self.tracker.say(note)

    def _measured(self, result: StepResult) -> tuple[dict[str, float], tuple[LossPart, ...]]:
        """The norm of the gradient and the speed; the parts of the loss over all ranks."""
        times, own = self.timer.take(), read_parts(result.parts)
        waited, *of_parts = zip(*self.ranks.gather_numbers(times.data_share, *(p.value for p in own)), strict=True)
        speed = times.steps * self.config.schedule.batch_size / times.seconds
        numbers = {"grad_norm": result.grad_norm, "images_per_second": speed, "data_share": max(waited)}
        return numbers, with_values(own, map(sum, of_parts))

    def evaluation(self, step: int, evaluation: Evaluation) -> None:
        """Scores and sample pictures of the weights after `step` steps."""
        self.tracker.evaluation(step, step // self.lr_schedule.steps_per_epoch, evaluation.scores)
        for image_id in self.val_set.image_ids[: self.config.trainer.num_pictures]:
            image = self.val_set.load_image(image_id)
            picture = sample_picture(image, image_id, evaluation.detections, evaluation.ground_truth)
            self.tracker.picture(step, f"image_{image_id}", picture)

    def stopped(self, step: int) -> None:
        self.tracker.say(f"stopped at step {step} of {self.lr_schedule.total_steps} (trainer.stop_after)")

    def results(self, progress: Progress, scores: Scores, folder: RunFolder) -> None:
        """At the end of a complete run: results.json, tables, and where everything is."""
        best = progress.best_score
        content = {"step": progress.step, "best_AP": best} | scores.to_mapping()
        with replacing(folder.results) as file:
            file.write(json.dumps(content, indent=2).encode())
        for text in (summary_table(scores), class_table(scores)):
            self.tracker.say("\n" + text)
        shown = "-" if best is None else f"{best:.3f}"
        self.tracker.say(
            f"\nbest AP {shown}: {folder.best}\nlast weights: {folder.last}\n"
            f"pictures: {folder.pictures}\nnumbers: {folder.metrics}, tensorboard --logdir {folder.path}"
        )
