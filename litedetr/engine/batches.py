"""The micro-batches of an optimiser step. They depend only on its number, so a resumed run sees the same."""

from __future__ import annotations

from collections.abc import Iterator

from litedetr.data import CocoDetection
from litedetr.engine.distributed import Ranks
from litedetr.engine.loader import LoaderSettings, MicroBatch, build_loader
from litedetr.settings import require


class StepBatches:
    """A rank's micro-batches of training, `grad_accum_steps` a step; the same from any step on."""

    def __init__(self, dataset: CocoDetection, settings: LoaderSettings, ranks: Ranks, grad_accum_steps: int) -> None:
        self.grad_accum_steps = grad_accum_steps
        self.steps_per_epoch = steps_per_epoch(len(dataset), settings, ranks, grad_accum_steps)
        self.loader = build_loader(dataset, settings, ranks, training=True)

    def from_step(self, step: int) -> Iterator[list[MicroBatch]]:
        """Endless, one list an optimiser step, beginning with step number `step`."""
        epoch, first = divmod(step, self.steps_per_epoch)
        while True:
            self.loader.sampler.set_position(epoch, first * self.grad_accum_steps)
            batches = iter(self.loader)
            for _ in range(first, self.steps_per_epoch):
                yield [next(batches) for _ in range(self.grad_accum_steps)]
            epoch, first = epoch + 1, 0


def steps_per_epoch(num_images: int, settings: LoaderSettings, ranks: Ranks, grad_accum_steps: int) -> int:
    """Whole optimiser steps of an epoch. Raises ConfigError if there are too few images for one."""
    batch_size = settings.batch_size * ranks.world_size * grad_accum_steps
    advice = _fitting(num_images, ranks.world_size, grad_accum_steps)
    expected = f"at most the number of training images ({num_images})"
    require(num_images >= batch_size, "schedule.batch_size", expected, batch_size, advice)
    return num_images // batch_size


def _fitting(num_images: int, world_size: int, grad_accum_steps: int) -> str:
    """The settings with which a step has as many images as there are."""
    if num_images < world_size:
        return f"fewer processes ({world_size}) are needed"
    grad_accum_steps = grad_accum_steps if num_images >= world_size * grad_accum_steps else 1
    largest = num_images - num_images % (world_size * grad_accum_steps)
    return f"schedule.batch_size={largest} schedule.grad_accum_steps={grad_accum_steps} fits"
