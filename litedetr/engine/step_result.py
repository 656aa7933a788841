"""The numbers of an optimiser step, and the error of a step whose numbers are not finite."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from litedetr.engine.run_config import Precision
from litedetr.faults.errors import UserError
from litedetr.losses import LossPart
from litedetr.losses.parts import with_values
from litedetr.transfers import to_host


@dataclass(frozen=True)
class StepResult:
    """The numbers of an optimiser step."""

    loss: float  # of the whole batch, over all ranks
    grad_norm: float  # before clipping; not finite if fp16 overflowed and the weights stayed as they were
    parts: tuple[LossPart, ...]  # this rank's share of each part of the loss, on the device
    stop_signal: int  # a signal that any rank received by the end of the step, 0 for none


def read_parts(parts: Sequence[LossPart]) -> tuple[LossPart, ...]:
    """Parts of the loss with floats. Waits for the device, so call it only if they are wanted."""
    (values,) = to_host(torch.stack([part.value for part in parts]))
    return with_values(parts, values.tolist())


class NonFiniteError(UserError):
    """The loss or the gradient is infinite or NaN; nothing was updated with it."""

    @classmethod
    def of(cls, step: int, result: StepResult, precision: Precision) -> NonFiniteError:
        """With the predictions that led to it, as far as this rank's parts of the loss tell."""
        parts = read_parts(result.parts)
        what = f"the gradient's norm is {result.grad_norm}"
        if not math.isfinite(result.loss):
            what = f"the loss is {result.loss} ({_where(parts)})"
        listed = ", ".join(f"{_predictions(part)} {part.term} {part.value:.4g}" for part in parts)
        return cls(
            f"{what} at step {step}; nothing was updated, and the last checkpoint is intact. "
            f"Parts of the loss: {listed}. Try a lower schedule.lr, a longer schedule.warmup_steps, a smaller "
            f"schedule.clip_norm, or trainer.precision=fp32 (now {precision}); resume=auto continues from the "
            "checkpoint"
        )


def _where(parts: Sequence[LossPart]) -> str:
    found = dict.fromkeys(_predictions(part) for part in parts if not math.isfinite(part.value))
    return f"not finite: {', '.join(found)}" if found else "the parts of this process are finite"


def _predictions(part: LossPart) -> str:
    return f"{part.branch.value.replace('_', '-')} layer {part.layer}"
