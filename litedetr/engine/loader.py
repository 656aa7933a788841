"""Loader processes: how they read a data set, and what is said when one of them fails."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch.utils.data import DataLoader, Dataset

from litedetr.data import CocoDetection, DataError, EpochSampler, Sample, SampleKey, collate
from litedetr.engine.signals import leave_signals_to_parent
from litedetr.structures import ImageBatch, TargetBatch

MicroBatch = tuple[ImageBatch, TargetBatch]


class LoaderError(RuntimeError):
    """A loader process ended or failed; the message says how, and what to do."""


class Loader:
    """The batches of `sampler`, each read by one of `num_workers` processes, or by this one for 0.

    A DataError in any of them is raised here as it was there.
    """

    def __init__(self, dataset: CocoDetection, sampler: EpochSampler, num_workers: int) -> None:
        self._batches = DataLoader(
            _DataErrorsAsValues(dataset),
            batch_sampler=sampler,
            collate_fn=_collate,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            worker_init_fn=leave_signals_to_parent,
        )

    def __iter__(self) -> Iterator[MicroBatch]:
        for batch in self._batches:
            if isinstance(batch, DataError):
                raise batch
            yield batch


class _DataErrorsAsValues(Dataset):
    """An exception would leave a loader process as the text of its traceback."""

    def __init__(self, dataset: CocoDetection) -> None:
        self.dataset = dataset

    def __getitem__(self, key: SampleKey) -> Sample | DataError:
        try:
            return self.dataset[key]
        except DataError as error:
            return error


def _collate(samples: Sequence[Sample | DataError]) -> MicroBatch | DataError:
    errors = [sample for sample in samples if isinstance(sample, DataError)]
    return errors[0] if errors else collate(samples)


@contextmanager
def loader_failures_named() -> Iterator[None]:
    """LoaderError where a loader process fails. Around everything that runs beside it, not its batches alone: the
    signal of its end reaches this process anywhere.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error).strip()
        if "DataLoader worker" not in text or isinstance(error, LoaderError):
            raise
        # Of an error within a loader process, torch gives the traceback; its last line says what was wrong.
        reason = text.splitlines()[-1] if text.startswith("Caught") else text.split(". ")[0].rstrip(".")
        raise LoaderError(
            f"a process that loads images failed ({reason}). Where it was out of memory (the system's log tells) or of "
            "shared memory (/dev/shm), fewer data.num_workers help; 0 needs none"
        ) from error
