"""The optimiser step, and what it needs of all ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from litedetr.engine.distributed import Ranks
from litedetr.engine.loader import MicroBatch
from litedetr.engine.optim import WeightUpdate
from litedetr.engine.precision import autocast
from litedetr.engine.run_config import Precision
from litedetr.faults.errors import UserError
from litedetr.faults.signals import StopRequest
from litedetr.losses import Criterion, Losses
from litedetr.structures import ImageBatch, Share, TargetBatch
from litedetr.transfers import to_host

# Of the fp16 loss. It begins at 65536 and is halved by each overflow; here no loss near 1 could still overflow.
LEAST_SCALE = 2.0**-10


class NonFiniteError(UserError):
    """The loss or the gradient is infinite or NaN; nothing was updated with it."""


@dataclass(frozen=True)
class StepResult:
    """The numbers of an optimiser step."""

    loss: float  # of the whole batch, over all ranks
    grad_norm: float  # before clipping
    parts: dict[str, Tensor]  # this rank's share of each part of the loss, on the device
    stop_signal: int  # a signal that any rank received by the end of the step, 0 for none


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

        step: from 0. batches: this rank's micro-batches. Raises NonFiniteError on all ranks, before the update.
        """
        # What a step draws depends on nothing that came before it, so a resumed run draws the same. Denoising draws the
        # same on any number of ranks too; dropout, which PyTorch's global generator decides, does not.
        torch.manual_seed(step_seed(self.seed, step, 1 + self.ranks.rank))
        self.update.optimizer.zero_grad(set_to_none=True)
        shares = as_shares([targets for _, targets in batches], self.ranks, step_seed(self.seed, step, 0))
        loss, parts = 0.0, {}  # on the device
        for number, batch in enumerate(zip((images for images, _ in batches), shares, strict=True), start=1):
            images, targets = (x.to(self.ranks.device, non_blocking=True) for x in batch)
            with self._synchronised(last=number == len(batches)):
                losses = self._backward(step, images, targets)
            loss = loss + losses.total.detach()
            parts = {name: parts[name] + value if parts else value for name, value in losses.parts.items()}
        return self._finish(step, loss, parts)

    def _synchronised(self, last: bool) -> AbstractContextManager[object]:
        """Ranks exchange gradients once, after the last micro-batch."""
        if isinstance(self.model, DistributedDataParallel) and not last:
            return self.model.no_sync()
        return nullcontext()

    def _backward(self, step: int, images: ImageBatch, targets: TargetBatch) -> Losses:
        """Add the gradient of a micro-batch to the parameters'."""
        with autocast(self.ranks.device, self.precision):
            output = self.model(images, targets)
        # Before the loss, whose matching cannot be done with NaN; all ranks must learn it, or some would wait forever.
        readout = self.criterion.read(output, targets)
        if any(row[0] for row in self.ranks.gather_numbers(len(readout.broken))):
            where = ", ".join(readout.broken) or "on another process"
            raise self._failure(f"predictions are not finite ({where})", step, {})
        losses = self.criterion(output, targets, readout)
        # The normaliser is that of all ranks and DDP averages over them: their number makes it a sum again.
        self.update.scaler.scale(losses.total * self.ranks.world_size).backward()
        return losses

    def _finish(self, step: int, loss: Tensor, parts: dict[str, Tensor]) -> StepResult:
        """Update the weights by the gradient in the parameters. loss, parts: this rank's."""
        own_loss, grad_norm, scale = self._gradient(loss)
        shared = self.ranks.gather_numbers(own_loss, self.stop.signum)
        total, stop_signal = sum(row[0] for row in shared), int(max(row[1] for row in shared))
        if not math.isfinite(total):
            raise self._failure(f"the loss is {total}", step, parts)
        # With fp16 an overflow is normal: the scaler skips the step and lowers its scale. But not for ever.
        overflow_explains = self.update.scaler.is_enabled() and scale > LEAST_SCALE
        if not math.isfinite(grad_norm) and not overflow_explains:
            raise self._failure(f"the gradient's norm is {grad_norm}", step, parts)
        self.update.scaler.step(self.update.optimizer)
        self.update.scaler.update()
        return StepResult(total, grad_norm, parts, stop_signal)

    def _gradient(self, loss: Tensor) -> tuple[float, float, float]:
        """Unscale and clip the gradient. Returns the loss, the norm before clipping and the scaler's scale.

        The host needs all three before it may update, and waits for the device once.
        """
        scaler = self.update.scaler
        scaler.unscale_(self.update.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.update.clip_norm or math.inf)
        scale = scaler.scale(torch.ones_like(loss))  # `get_scale` would wait by itself
        return tuple(map(float, to_host(loss, norm, scale)))

    def _failure(self, what: str, step: int, parts: dict[str, Tensor]) -> NonFiniteError:
        listed = ", ".join(f"{name} {part:.4g}" for name, part in read_parts(parts).items())
        return NonFiniteError(
            f"{what} at step {step}; nothing was updated, and the last checkpoint is intact. "
            f"Parts of the loss: {listed or 'none could be computed'}. Try a lower schedule.lr, a longer "
            f"schedule.warmup_steps, a smaller schedule.clip_norm, or trainer.precision=fp32 (now {self.precision}); "
            "resume=auto continues from the checkpoint"
        )


def read_parts(parts: dict[str, Tensor]) -> dict[str, float]:
    """Parts of the loss on the host, in one copy. Waits for the device, so call it only if they are wanted."""
    values = to_host(torch.stack(list(parts.values())))[0].tolist() if parts else []
    return dict(zip(parts, values, strict=True))


def as_shares(batches: Sequence[TargetBatch], ranks: Ranks, seed: int) -> list[TargetBatch]:
    """A rank's micro-batches with the normaliser and the largest object count of the whole batch, and their place in
    it. The whole batch is that of all micro-batches of all ranks.
    """
    counts = [count for batch in batches for count in batch.counts]
    shared = ranks.gather_numbers(sum(counts), max(counts, default=0), *map(len, batches))
    num_boxes = max(sum(row[0] for row in shared), 1.0)
    max_objects = int(max(row[1] for row in shared))
    # (micro-batches, ranks), which is the order of the images: EpochSampler deals them out so.
    sizes = np.array([row[2:] for row in shared], dtype=int).T
    first = (sizes.cumsum().reshape(sizes.shape) - sizes)[:, ranks.rank].tolist()
    shares = [Share(start, int(sizes.sum()), seed) for start in first]
    numbers = {"num_boxes": num_boxes, "max_objects": max_objects}
    return [replace(batch, share=share, **numbers) for batch, share in zip(batches, shares, strict=True)]


def step_seed(seed: int, step: int, stream: int) -> int:
    """A seed in [0, 2^63) of its own for every step and stream of random numbers."""
    return int(np.random.SeedSequence([seed, step, stream]).generate_state(1, np.uint64)[0] >> np.uint64(1))
