"""The optimiser step."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import reduce

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from litedetr.engine.distributed import Ranks
from litedetr.engine.loader import MicroBatch
from litedetr.engine.optim import WeightUpdate
from litedetr.engine.precision import autocast
from litedetr.engine.run_config import Precision
from litedetr.engine.shares import as_shares, step_seed
from litedetr.engine.step_result import NonFiniteError, StepResult
from litedetr.faults.signals import StopRequest
from litedetr.losses import Criterion, Losses
from litedetr.structures import ImageBatch, TargetBatch
from litedetr.transfers import to_host


@dataclass(frozen=True)
class TrainStep:
    """An optimiser step: micro-batches in, updated weights out."""

    model: nn.Module  # the detector, or DDP around it
    criterion: Criterion
    update: WeightUpdate
    precision: Precision
    seed: int
    ranks: Ranks
    stop: StopRequest = field(default_factory=StopRequest)  # this rank's, which the results tell all ranks

    def __call__(self, step: int, batches: Sequence[MicroBatch]) -> StepResult:
        """Update the model by the gradient of all `batches` of all ranks, exactly that of one large batch.

        step: from 0.
        batches: this rank's micro-batches, one or more.
        Returns the numbers of the step. Raises NonFiniteError on all ranks, before the update.
        """
        # What a step draws depends on nothing that came before it, so a resumed run draws the same. Denoising draws the
        # same on any number of ranks too; dropout, which PyTorch's global generator decides, does not.
        torch.manual_seed(step_seed(self.seed, step, 1 + self.ranks.rank))
        self.update.zero_grad()
        losses = self._add_gradients(step, batches)
        result, is_finite = self._read(losses)
        if not is_finite:
            raise NonFiniteError.of(step, result, losses.broken(), self.precision)
        self.update.apply()
        return result

    def _add_gradients(self, step: int, batches: Sequence[MicroBatch]) -> Losses:
        """The gradient of all micro-batches, in the parameters. Returns this rank's share of the loss."""
        images, targets = zip(*batches, strict=True)
        shares = as_shares(targets, self.ranks, step_seed(self.seed, step, 0))
        *first, last = zip(images, shares, strict=True)
        with self._unsynchronised():
            losses = [self._backward(*batch) for batch in first]
        return reduce(operator.add, [*losses, self._backward(*last)])

    def _unsynchronised(self) -> AbstractContextManager[object]:
        """Ranks exchange gradients once, after the last micro-batch."""
        return self.model.no_sync() if isinstance(self.model, DistributedDataParallel) else nullcontext()

    def _backward(self, images: ImageBatch, targets: TargetBatch) -> Losses:
        """Add the gradient of a micro-batch to the parameters'."""
        images, targets = (x.to(self.ranks.device, non_blocking=True) for x in (images, targets))
        with autocast(self.ranks.device, self.precision):
            output = self.model(images, targets)
        losses = self.criterion(output, targets)
        # The normaliser is that of all ranks and DDP averages over them: their number makes it a sum again.
        self.update.backward(losses.total * self.ranks.world_size)
        return losses.detached()

    def _read(self, losses: Losses) -> tuple[StepResult, bool]:
        """The step's numbers over all ranks, and whether the weights may be updated. Waits for the device once."""
        norm, scale = self.update.unscale_and_clip(self.model.parameters())
        own_loss, grad_norm, scale = map(float, to_host(losses.total, norm, scale))
        shared = self.ranks.gather_numbers(own_loss, self.stop.signum)
        loss, stop_signal = sum(row[0] for row in shared), int(max(row[1] for row in shared))
        is_finite = math.isfinite(loss) and (math.isfinite(grad_norm) or self.update.skips_overflow(scale))
        return StepResult(loss, grad_norm, losses.parts, stop_signal), is_finite
