"""The loaders of training and evaluation: batches that processes read from a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch.utils.data import DataLoader, Dataset

from litedetr.data import CocoDetection, DataError, EpochSampler, collate
from litedetr.engine.distributed import Ranks
from litedetr.engine.run_config import RunConfig
from litedetr.faults.processes import LoaderError
from litedetr.faults.signals import leave_signals_to_parent
from litedetr.settings import require
from litedetr.structures import ImageBatch, TargetBatch

MicroBatch = tuple[ImageBatch, TargetBatch]
PATIENCE = 10.0  # seconds; the thread that pins batches looks every 5 whether it shall end


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


def build_loader(dataset: CocoDetection, settings: LoaderSettings, ranks: Ranks, training: bool = False) -> Loader:
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


class Loader:
    """The batches of `sampler`, each read by one of `num_workers` processes, or by this one for 0.

    A DataError in any of them is raised here as it was there. To be entered: on leaving, the processes end.
    prefetch: batches that each process reads in advance; None: as many as PyTorch thinks good.
    pin: hand batches over in page-locked memory, from which a copy to a GPU runs beside the host.
    """

    def __init__(
        self,
        dataset: Dataset,
        sampler: Iterable[Sequence[Any]],
        num_workers: int,
        collate_fn: Callable[[Sequence[Any]], Any] = collate,
        prefetch: int | None = None,
        pin: bool = False,
    ) -> None:
        self.sampler = sampler
        self._batches = DataLoader(
            _DataErrorsAsValues(dataset),
            batch_sampler=sampler,
            collate_fn=partial(_collate_or_error, collate_fn),
            num_workers=num_workers,
            prefetch_factor=prefetch if num_workers else None,
            pin_memory=pin,
            persistent_workers=num_workers > 0,
            worker_init_fn=leave_signals_to_parent,
        )

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *exception: object) -> None:
        """At exit Python would send SIGTERM, which these processes ignore, and then hang; so they are ended here."""
        processes, self._batches._iterator = self._batches._iterator, None
        if processes is None:
            return
        try:
            _end_pinning(processes)
            processes._shutdown_workers()
        finally:  # the news of one's death may interrupt it
            for process in processes._workers:
                process.kill()

    def __iter__(self) -> Iterator[Any]:
        try:
            for batch in self._batches:
                if isinstance(batch, DataError):
                    raise batch
                yield batch
        except (ConnectionError, EOFError, FileNotFoundError) as error:  # images are handed over through sockets
            raise LoaderError.because("it ended while it handed over images") from error


def _end_pinning(processes: Any) -> None:
    """PyTorch waits without limit for its thread that pins batches, and that may wait for the rest of what a killed
    process began to hand over. Such a thread is left behind; it ends with this process.
    """
    thread = getattr(processes, "_pin_memory_thread", None)
    if thread is None:
        return
    processes._pin_memory_thread_done_event.set()
    processes._worker_result_queue.put((None, None))  # wakes it
    thread.join(PATIENCE)
    if thread.is_alive():
        del processes._pin_memory_thread


class _DataErrorsAsValues(Dataset):
    """An exception would leave a loader process as the text of its traceback."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __getitem__(self, key: Any) -> Any:
        try:
            return self.dataset[key]
        except DataError as error:
            return error


def _collate_or_error(collate_fn: Callable[[Sequence[Any]], Any], samples: Sequence[Any]) -> Any:
    errors = [sample for sample in samples if isinstance(sample, DataError)]
    return errors[0] if errors else collate_fn(samples)
