"""The learning-rate schedule: the factor of each step, which depends on nothing but the step."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

from litedetr.engine.run_config import TrainerConfig
from litedetr.engine.schedule_config import ScheduleConfig

WARMUP_SHARE = 0.5  # of the run; a longer warm-up is warned of
LONG = 100  # steps; a shorter run is not warned that it saves only at its end


@dataclass(frozen=True)
class LRSchedule:
    """A schedule in optimiser steps, once the size of an epoch is known."""

    config: ScheduleConfig
    steps_per_epoch: int

    @property
    def _unit(self) -> int:
        """Optimiser steps in one unit of the length and the milestones: an epoch, or one step with max_steps."""
        return self.steps_per_epoch if self.config.max_steps is None else 1

    @property
    def total_steps(self) -> int:
        return (self.config.max_epochs or self.config.max_steps) * self._unit

    @property
    def num_epochs(self) -> int:
        """Epochs of the run, the last of which max_steps may cut."""
        return -(-self.total_steps // self.steps_per_epoch)

    def factor(self, step: int) -> float:
        """What the peak rates are multiplied by at `step`, 0 being the first."""
        warmup = self.config.warmup_steps
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if self.config.decay == "cosine":
            progress = (step - warmup) / max(self.total_steps - warmup, 1)
            return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
        if self.config.decay == "step":
            milestones = [milestone * self._unit for milestone in self.config.milestones]
            return self.config.gamma ** bisect_right(milestones, step)
        return 1.0


def schedule_warnings(schedule: LRSchedule, trainer: TrainerConfig) -> list[str]:
    """One line for each number of steps that does not fit the length of the run, and is probably a mistake."""
    steps = schedule.total_steps
    run = f"this run of {steps} steps ({schedule.steps_per_epoch} an epoch)"
    every = trainer.evaluate_every and trainer.evaluate_every * schedule.steps_per_epoch
    found = _warmup_warnings(schedule, run)
    if every and every > steps > schedule.steps_per_epoch:
        found.append(f"trainer.evaluate_every={trainer.evaluate_every} is longer than {run}: evaluated at its end")
    if steps >= LONG and trainer.checkpoint_every >= steps and (every is None or every >= steps):
        found.append(f"trainer.checkpoint_every={trainer.checkpoint_every} is not below {run}: saved at its end only")
    if trainer.stop_after is not None and trainer.stop_after > steps:
        found.append(f"trainer.stop_after={trainer.stop_after} is beyond the end of {run}")
    return [f"warning: {line}" for line in found]


def _warmup_warnings(schedule: LRSchedule, run: str) -> list[str]:
    warmup, steps = schedule.config.warmup_steps, schedule.total_steps
    if warmup <= WARMUP_SHARE * steps:
        return []
    problem = f"is {warmup / steps:.0%} of {run}"
    if warmup >= steps:
        problem = f"is not over within {run}, whose rates end at {steps / (warmup + 1):.0%} of their peak"
    advice = f"set schedule.warmup_steps={steps // 10}, or a larger {schedule.config.length_setting}"
    return [f"schedule.warmup_steps={warmup} {problem}: {advice}"]
