"""The batches of every optimiser step, a function of the step alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from litedetr.data import CocoDetection, EpochSampler
from litedetr.engine.distributed import Ranks
from litedetr.engine.loader import Loader, MicroBatch
from litedetr.engine.run_config import RunConfig
from litedetr.settings import require


@dataclass(frozen=True)
class LoaderSettings:
    """How a rank loads its images."""

    batch_size: int  # images of one micro-batch of one rank
    num_workers: int
    seed: int
    prefetch: int | None = None  # as Loader's


def loader_settings(config: RunConfig, ranks: Ranks) -> LoaderSettings:
    """Split schedule.batch_size over ranks and accumulation."""
    total, grad_accum_steps = config.schedule.batch_size, config.schedule.grad_accum_steps
    shares = ranks.world_size * grad_accum_steps
    expected = f"a multiple of processes ({ranks.world_size}) x schedule.grad_accum_steps ({grad_accum_steps})"
    require(total % shares == 0, "schedule.batch_size", expected, total)
    return LoaderSettings(total // shares, config.data.num_workers, config.seed, config.data.prefetch)


class StepBatches:
    """A rank's micro-batches of training, `grad_accum_steps` a step; the same from any step on."""

    def __init__(self, dataset: CocoDetection, settings: LoaderSettings, ranks: Ranks, grad_accum_steps: int) -> None:
        batch_size = settings.batch_size * ranks.world_size * grad_accum_steps
        self.grad_accum_steps = grad_accum_steps
        self.steps_per_epoch = len(dataset) // batch_size
        advice = _fitting(len(dataset), ranks.world_size, grad_accum_steps)
        expected = f"at most the number of training images ({len(dataset)})"
        require(self.steps_per_epoch > 0, "schedule.batch_size", expected, batch_size, advice)
        self.loader = load_batches(dataset, settings, ranks, training=True)

    def from_step(self, step: int) -> Iterator[list[MicroBatch]]:
        """Endless, one list an optimiser step, beginning with step number `step`."""
        epoch, first = divmod(step, self.steps_per_epoch)
        while True:
            self.loader.sampler.set_position(epoch, first * self.grad_accum_steps)
            batches = iter(self.loader)
            for _ in range(first, self.steps_per_epoch):
                yield [next(batches) for _ in range(self.grad_accum_steps)]
            epoch, first = epoch + 1, 0


def _fitting(num_images: int, world_size: int, grad_accum_steps: int) -> str:
    """The settings with which a step has as many images as there are."""
    if num_images < world_size:
        return f"fewer processes ({world_size}) are needed"
    grad_accum_steps = grad_accum_steps if num_images >= world_size * grad_accum_steps else 1
    largest = num_images - num_images % (world_size * grad_accum_steps)
    return f"schedule.batch_size={largest} schedule.grad_accum_steps={grad_accum_steps} fits"


def load_batches(dataset: CocoDetection, settings: LoaderSettings, ranks: Ranks, training: bool = False) -> Loader:
    """A rank's batches: of an epoch in training, otherwise such that all ranks together have every image once."""
    sampler = EpochSampler(
        num_items=len(dataset),
        batch_size=settings.batch_size,
        seed=settings.seed,
        rank=ranks.rank,
        world_size=ranks.world_size,
        training=training,
    )
    pin = ranks.device.type == "cuda"
    return Loader(dataset, sampler, settings.num_workers, prefetch=settings.prefetch, pin=pin)
