"""The optimiser step."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import reduce

import torch
from torch import Tensor, nn
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
from litedetr.losses.supervision import not_finite
from litedetr.structures import ImageBatch, TargetBatch
from litedetr.transfers import to_host

NOISE_STREAM, FIRST_RANK_STREAM = 0, 1  # of random numbers: of the noise of denoising, of the first rank


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
        images, targets = zip(*batches, strict=True)
        shares = as_shares(targets, self.ranks, step_seed(self.seed, step, NOISE_STREAM))
        micro_batches = list(zip(images, shares, strict=True))
        self._seed(step)
        self.update.zero_grad()
        losses = []
        for number, batch in enumerate(micro_batches, start=1):
            with self._synchronised(last=number == len(batches)):
                losses.append(self._forward_backward(*batch))
        norm, scale = self.update.unscale_and_clip(self.model.parameters())
        result, scale = self._over_all_ranks(reduce(operator.add, losses), norm, scale)
        overflow = self.update.skips_overflow(scale)  # with fp16: normal, the weights then stay as they are
        if not (result.is_finite and (math.isfinite(result.grad_norm) or overflow)):
            raise NonFiniteError.of(step, result, self._broken_predictions(step, micro_batches), self.precision)
        self.update.apply()
        return result

    def _seed(self, step: int) -> None:
        """What a step draws depends on nothing that came before it, so a resumed run draws the same.

        Denoising draws the same on any number of ranks too; dropout, which this generator decides, does not.
        """
        torch.manual_seed(step_seed(self.seed, step, FIRST_RANK_STREAM + self.ranks.rank))

    def _synchronised(self, last: bool) -> AbstractContextManager[object]:
        """Ranks exchange gradients once, after the last micro-batch."""
        if isinstance(self.model, DistributedDataParallel) and not last:
            return self.model.no_sync()
        return nullcontext()

    def _forward_backward(self, images: ImageBatch, targets: TargetBatch) -> Losses:
        """Add the gradient of a micro-batch to the parameters'. Returns this rank's share of the loss."""
        images, targets = self._on_device(images, targets)
        with autocast(self.ranks.device, self.precision):
            output = self.model(images, targets)
        losses = self.criterion(output, targets)  # outside of autocast: in full precision
        # The normaliser is that of all ranks and DDP averages over them: their number makes it a sum again.
        self.update.backward(losses.total * self.ranks.world_size)
        return losses.detached()

    def _on_device(self, images: ImageBatch, targets: TargetBatch) -> MicroBatch:
        return tuple(x.to(self.ranks.device, non_blocking=True) for x in (images, targets))

    def _over_all_ranks(self, losses: Losses, norm: Tensor, scale: Tensor) -> tuple[StepResult, float]:
        """The step's numbers, and the fp16 scaler's scale. Waits for the device once."""
        own_loss, grad_norm, scale = map(float, to_host(losses.total, norm, scale))
        own = own_loss, losses.has_finite_costs, self.stop.signum
        all_losses, have_finite_costs, signals = zip(*self.ranks.gather_numbers(*own), strict=True)
        loss = sum(all_losses)
        is_finite = math.isfinite(loss) and all(have_finite_costs)
        return StepResult(loss, is_finite, grad_norm, losses.parts, int(max(signals))), scale

    @torch.no_grad()
    def _broken_predictions(self, step: int, micro_batches: Sequence[MicroBatch]) -> list[str]:
        """Names of the predictions of all ranks that are NaN or infinite, from the step's forward passes once more.

        Only after a failure, so that nothing is looked at or kept for it in other steps.
        """
        self._seed(step)
        found = []
        for batch in micro_batches:
            images, targets = self._on_device(*batch)
            with autocast(self.ranks.device, self.precision):
                output = self.model(images, targets)
            found += not_finite(output, targets)
        by_rank = self.ranks.gather(list(dict.fromkeys(found)))
        if self.ranks.world_size == 1:
            return by_rank[0]
        return [f"{name} on process {rank}" for rank, names in enumerate(by_rank) for name in names]
