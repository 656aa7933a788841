"""The numbers of an optimiser step, and the error of a step whose numbers are not finite."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from litedetr.engine.run_config import Precision
from litedetr.faults.errors import UserError
from litedetr.losses import LossPart
from litedetr.losses.parts import by_branch, with_values
from litedetr.transfers import to_host


@dataclass(frozen=True)
class StepResult:
    """The numbers of an optimiser step."""

    loss: float  # of the whole batch, over all ranks
    is_finite: bool  # whether it is, and so are the costs of the matching
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
    def of(cls, step: int, result: StepResult, broken: Sequence[str], precision: Precision) -> NonFiniteError:
        """broken: names of the predictions that are not finite."""
        what = f"the loss is {result.loss}"
        if math.isfinite(result.loss):
            what += f" and the gradient's norm {result.grad_norm}"
        where = f"predictions that are not finite: {', '.join(broken)}"
        if not broken:
            where = "all predictions are finite"
        return cls(
            f"{what} at step {step} ({where}); nothing was updated, and the last checkpoint is intact. "
            f"Parts of the loss by layer: {_listed(result.parts)}. Try a lower schedule.lr, a longer "
            f"schedule.warmup_steps, a smaller schedule.clip_norm, or trainer.precision=fp32 (now {precision}); "
            "resume=auto continues from the checkpoint"
        )


def _listed(parts: Sequence[LossPart]) -> str:
    """`decoder classes 1.5 1.4, l1 0.2 0.1; proposals ...`"""
    return "; ".join(
        branch + ",".join(f" {term} {' '.join(f'{value:.4g}' for value in values)}" for term, values in terms.items())
        for branch, terms in by_branch(read_parts(parts)).items()
    )
