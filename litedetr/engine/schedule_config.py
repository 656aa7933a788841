"""Settings of the schedule: how long a run is, its learning rates, its batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from litedetr.settings import require, typed


@dataclass(frozen=True)
@typed
class ScheduleConfig:
    """How long, how fast and in what batches; the defaults are the published 12-epoch recipe."""

    max_epochs: int | None = 12  # length of the run; None if max_steps gives it
    max_steps: int | None = None  # length in optimiser steps, in place of max_epochs
    decay: Literal["step", "cosine", "constant"] = "step"  # cosine falls to zero over the run
    milestones: tuple[int, ...] = (11,)  # with decay=step: epochs, or steps with max_steps, after which rates fall
    gamma: float = 0.1  # what the rates are multiplied by at each milestone
    warmup_steps: int = 0  # optimiser steps of linear warm-up
    lr: float = 1e-4  # peak rate of all parameters that are not of the next two
    backbone_lr: float = 1e-5
    sampling_offsets_lr: float = 1e-4
    weight_decay: float = 1e-4
    decay_norms_and_biases: bool = True  # as in the published code; False: weight decay leaves them out
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float | None = 0.1  # largest gradient norm; None does not clip
    ema_decay: float | None = None  # of the moving average of the weights that is evaluated; None: no average
    batch_size: int = 16  # images of one optimiser step, over all ranks and the micro-batches of each
    grad_accum_steps: int = 1  # micro-batches of a step: the same gradient in less memory

    @property
    def length_setting(self) -> str:
        """The setting that gives the length of the run."""
        return "schedule.max_epochs" if self.max_steps is None else "schedule.max_steps"

    def __post_init__(self) -> None:
        self._require_one_length()
        for name in ("batch_size", "grad_accum_steps"):
            require(getattr(self, name) >= 1, f"schedule.{name}", "at least 1", getattr(self, name))
        for name in ("lr", "backbone_lr", "sampling_offsets_lr", "weight_decay", "warmup_steps"):
            require(getattr(self, name) >= 0, f"schedule.{name}", "at least 0", getattr(self, name))
        divides = self.batch_size % self.grad_accum_steps == 0
        expected = f"a divisor of schedule.batch_size ({self.batch_size})"
        require(divides, "schedule.grad_accum_steps", expected, self.grad_accum_steps)
        self._require_milestones()
        proper = all(0 <= beta < 1 for beta in self.betas)
        require(proper, "schedule.betas", "two numbers in [0, 1)", self.betas)
        require(0 < self.gamma <= 1, "schedule.gamma", "a number in (0, 1]", self.gamma)
        require(self.clip_norm is None or self.clip_norm > 0, "schedule.clip_norm", "null or above 0", self.clip_norm)
        averages = self.ema_decay is None or 0 < self.ema_decay < 1
        require(averages, "schedule.ema_decay", "null or a number in (0, 1)", self.ema_decay)

    def _require_one_length(self) -> None:
        epochs, steps = self.max_epochs, self.max_steps
        if steps is not None:
            expected = f"null with schedule.max_epochs={epochs}"
            require(epochs is None, "schedule.max_steps", expected, steps, "set schedule.max_epochs=null too")
            require(steps >= 1, "schedule.max_steps", "null or at least 1", steps)
        else:
            length = epochs is not None and epochs >= 1
            require(length, "schedule.max_epochs", "at least 1, or a number of schedule.max_steps", epochs)

    def _require_milestones(self) -> None:
        if self.decay == "step":
            length = self.max_epochs or self.max_steps
            inside = all(0 < milestone < length for milestone in self.milestones)
            ascending = list(self.milestones) == sorted(set(self.milestones))
            unit = "epochs" if self.max_steps is None else "steps"
            expected = f"ascending {unit} between 0 and {self.length_setting} ({length})"
            require(inside and ascending, "schedule.milestones", expected, self.milestones)
        else:
            expected = f"nothing with schedule.decay={self.decay}"
            require(not self.milestones, "schedule.milestones", expected, self.milestones)
