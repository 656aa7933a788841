"""Loader processes: how they read a data set, and what is said when one of them fails."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch.utils.data import DataLoader, Dataset

from litedetr.data import DataError, collate
from litedetr.engine.signals import leave_signals_to_parent
from litedetr.structures import ImageBatch, TargetBatch

MicroBatch = tuple[ImageBatch, TargetBatch]


class LoaderError(RuntimeError):
    """A loader process ended or failed; the message says how, and what to do."""


class Loader:
    """The batches of `sampler`, each read by one of `num_workers` processes, or by this one for 0.

    A DataError in any of them is raised here as it was there. To be entered: on leaving, the processes end.
    """

    def __init__(
        self,
        dataset: Dataset,
        sampler: Iterable[Sequence[Any]],
        num_workers: int,
        collate_fn: Callable[[Sequence[Any]], Any] = collate,
    ) -> None:
        self._batches = DataLoader(
            _DataErrorsAsValues(dataset),
            batch_sampler=sampler,
            collate_fn=partial(_collate_or_error, collate_fn),
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            worker_init_fn=leave_signals_to_parent,
        )

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *exception: object) -> None:
        """Python itself would end them, where an exception kept them alive, by a signal that they ignore, and wait."""
        processes, self._batches._iterator = self._batches._iterator, None
        if processes is None:
            return
        try:
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
            raise _failure("it ended while it handed over images") from error


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
        raise _failure(reason) from error


def _failure(reason: str) -> LoaderError:
    return LoaderError(
        f"a process that loads images failed ({reason}). Where it was out of memory (the system's log tells) or of "
        "shared memory (/dev/shm), fewer data.num_workers help; 0 needs none"
    )
