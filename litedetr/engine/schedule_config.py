"""Settings of the schedule: how long a run is, its learning rates, its batches."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from litedetr.settings import Count, Flag, Many, Maybe, NotNegative, Number, Pair, require, settings

Rate = Annotated[Number, Field(ge=0)]
OptimizerName = Literal["adamw", "muon"]
Beta = Annotated[Number, Field(ge=0, lt=1)]


@settings("schedule")
class ScheduleConfig:
    """How long, how fast and in what batches; the defaults are the published 12-epoch recipe."""

    max_epochs: Maybe[Count] = 12  # length of the run; None if max_steps gives it
    max_steps: Maybe[Count] = None  # length in optimiser steps, in place of max_epochs
    decay: Literal["step", "cosine", "constant"] = "step"  # cosine falls to zero over the run
    milestones: Many[Count] = (11,)  # with decay=step: epochs, or steps with max_steps, after which rates fall
    gamma: Annotated[Number, Field(gt=0, le=1)] = 0.1  # what the rates are multiplied by at each milestone
    warmup_steps: NotNegative = 0  # optimiser steps of linear warm-up
    # muon: hidden matrices are trained by Muon (litedetr/engine/muon.py), all other parameters by AdamW
    optimizer: OptimizerName = "adamw"
    # Muon's matrices have this times lr or backbone_lr; 1 makes updates about as large as AdamW's
    muon_rate: Annotated[Number, Field(gt=0)] = 2.0
    lr: Rate = 1e-4  # peak rate of all parameters that are not of the next two
    backbone_lr: Rate = 1e-5
    sampling_offsets_lr: Rate = 1e-4
    weight_decay: Rate = 1e-4
    decay_norms_and_biases: Flag = True  # as in the published code; False: weight decay leaves them out
    betas: Pair[Beta] = (0.9, 0.999)
    clip_norm: Maybe[Annotated[Number, Field(gt=0)]] = 0.1  # largest gradient norm; None does not clip
    # of the moving average of the weights that is evaluated; None: no average
    ema_decay: Maybe[Annotated[Number, Field(gt=0, lt=1)]] = None
    batch_size: Count = 16  # images of one optimiser step, over all ranks and the micro-batches of each
    grad_accum_steps: Count = 1  # micro-batches of a step: the same gradient in less memory

    @property
    def length_setting(self) -> str:
        """The setting that gives the length of the run."""
        return "schedule.max_epochs" if self.max_steps is None else "schedule.max_steps"

    def __post_init__(self) -> None:
        epochs, steps = self.max_epochs, self.max_steps
        given = epochs is not None or steps is not None
        require(given, "schedule.max_epochs", "at least 1, or a number of schedule.max_steps", epochs)
        one = epochs is None or steps is None
        expected = f"null with schedule.max_epochs={epochs}"
        require(one, "schedule.max_steps", expected, steps, "set schedule.max_epochs=null too")
        divides = self.batch_size % self.grad_accum_steps == 0
        expected = f"a divisor of schedule.batch_size ({self.batch_size})"
        require(divides, "schedule.grad_accum_steps", expected, self.grad_accum_steps)
        if self.decay == "step":
            length = self.max_epochs or self.max_steps
            inside = all(milestone < length for milestone in self.milestones)
            ascending = list(self.milestones) == sorted(set(self.milestones))
            unit = "epochs" if self.max_steps is None else "steps"
            expected = f"ascending {unit} between 0 and {self.length_setting} ({length})"
            require(inside and ascending, "schedule.milestones", expected, self.milestones)
        else:
            expected = f"nothing with schedule.decay={self.decay}"
            require(not self.milestones, "schedule.milestones", expected, self.milestones)
