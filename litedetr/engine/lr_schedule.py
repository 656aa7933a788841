"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

from litedetr.engine.run_config import ScheduleConfig, TrainerConfig

WARMUP_SHARE = 0.5  # of the run: more than that is told
LONG = 100  # steps of a run that it would be a pity to lose


@dataclass(frozen=True)
class Timeline:
    """A schedule in optimiser steps, once the size of an epoch is known."""

    config: ScheduleConfig
    steps_per_epoch: int

    @property
    def _unit(self) -> int:
        return self.steps_per_epoch if self.config.unit == "epochs" else 1

    @property
    def total_steps(self) -> int:
        return self.config.length * self._unit

    def epoch_of(self, step: int) -> int:
        return step // self.steps_per_epoch

    def learning_rate_factor(self, step: int) -> float:
        """What the peak rates are multiplied by at `step`, 0 being the first."""
        warmup = self.config.warmup
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if self.config.decay == "cosine":
            progress = (step - warmup) / max(self.total_steps - warmup, 1)
            return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
        if self.config.decay == "step":
            drops = [drop * self._unit for drop in self.config.drops]
            return self.config.drop_factor ** bisect_right(drops, step)
        return 1.0


def doubts(timeline: Timeline, trainer: TrainerConfig) -> list[str]:
    """What can hardly be meant, a line each: numbers of steps that do not fit the length of the run."""
    steps = timeline.total_steps
    run = f"this run of {steps} steps ({timeline.steps_per_epoch} an epoch)"
    every = trainer.evaluate_every and trainer.evaluate_every * timeline.steps_per_epoch
    found = _doubts_of_warmup(timeline.config.warmup, steps, run)
    if every and every > steps > timeline.steps_per_epoch:
        found.append(f"trainer.evaluate_every={trainer.evaluate_every} is longer than {run}: evaluated at its end")
    if steps >= LONG and trainer.checkpoint_every >= steps and (every is None or every >= steps):
        found.append(f"trainer.checkpoint_every={trainer.checkpoint_every} is not below {run}: saved at its end only")
    if trainer.stop_after is not None and trainer.stop_after > steps:
        found.append(f"trainer.stop_after={trainer.stop_after} is beyond the end of {run}")
    return [f"warning: {line}" for line in found]


def _doubts_of_warmup(warmup: int, steps: int, run: str) -> list[str]:
    if warmup <= WARMUP_SHARE * steps:
        return []
    told = f"is {warmup / steps:.0%} of {run}"
    if warmup >= steps:
        told = f"is not over within {run}, whose rates end at {steps / (warmup + 1):.0%} of their peak"
    advice = f"set schedule.warmup={steps // 10}, or a larger schedule.length"
    return [f"schedule.warmup={warmup} {told}: {advice}"]
