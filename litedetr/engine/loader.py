"""Loader processes: how they read a data set, and what is said when one of them fails."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch.utils.data import DataLoader, Dataset

from litedetr.data import DataError, collate
from litedetr.faults.signals import leave_signals_to_parent
from litedetr.structures import ImageBatch, TargetBatch

MicroBatch = tuple[ImageBatch, TargetBatch]
PATIENCE = 10.0  # seconds; the thread that pins batches looks every 5 whether it shall end
_LOADING = re.compile("DataLoader worker|[Pp]in memory thread")  # who failed, in PyTorch's words
_EXCEPTION = re.compile(r"[\w.]*(Error|Exception)\b")  # how the line begins that ends a traceback


class LoaderError(RuntimeError):
    """A loader process ended or failed; the message says how, and what to do."""


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
        """Python itself would end them, where an exception kept them alive, by a signal that they ignore, and wait."""
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
            raise _failure("it ended while it handed over images") from error


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


@contextmanager
def loader_failures_named() -> Iterator[None]:
    """LoaderError where a loader process fails. Around everything that runs beside it, not its batches alone: the
    signal of its end reaches this process anywhere.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error).strip()
        if isinstance(error, LoaderError) or not _LOADING.search(text):
            raise
        raise _failure(_reason(text)) from error


def _reason(text: str) -> str:
    """Of an error in a loader process, or in the thread that pins batches, PyTorch gives the traceback. Of it, the line
    that says what was wrong: the last, but of an error of CUDA, which has more of them.
    """
    if not text.startswith("Caught"):
        return text.split(". ")[0].rstrip(".")
    lines = text.splitlines()
    return next((line for line in reversed(lines) if _EXCEPTION.match(line)), lines[-1])


def _failure(reason: str) -> LoaderError:
    return LoaderError(
        f"a process that loads images failed ({reason}). Where it was out of memory (the system's log tells) or of "
        "shared memory (/dev/shm), fewer data.num_workers help; 0 needs none"
    )
