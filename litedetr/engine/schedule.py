"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

from litedetr.engine.config import ScheduleConfig


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
