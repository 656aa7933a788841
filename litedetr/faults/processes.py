"""What is said when another process fails: one that loads images, the thread that pins its batches, another rank."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from torch.distributed import DistError

from litedetr.faults.errors import UserError

_LOADING = re.compile("DataLoader worker|[Pp]in memory thread")  # who failed, in PyTorch's words
_EXCEPTION = re.compile(r"[\w.]*(Error|Exception)\b")  # how the line begins that ends a traceback


class LoaderError(UserError):
    """A loader process ended or failed; the message says how, and what to do."""

    @classmethod
    def because(cls, reason: str) -> LoaderError:
        return cls(
            f"a process that loads images failed ({reason}). Where it was out of memory (the system's log tells) or "
            "of shared memory (/dev/shm), fewer data.num_workers help; 0 needs none"
        )


@contextmanager
def loader_failures_named() -> Iterator[None]:
    """Raises LoaderError if a loader process fails. To be put around everything that runs beside these processes, not
    only around their batches: the signal of a process's end reaches this one anywhere.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error).strip()
        if not _LOADING.search(text):
            raise
        raise LoaderError.because(_reason(text)) from error


def _reason(text: str) -> str:
    """The line of PyTorch's text that says what was wrong.

    Of an error in a loader process, or in the thread that pins batches, PyTorch gives the traceback. Its last line says
    what was wrong, except for an error of CUDA, whose text has several lines.
    """
    if not text.startswith("Caught"):
        return text.split(". ")[0].rstrip(".")
    lines = text.splitlines()
    return next((line for line in reversed(lines) if _EXCEPTION.match(line)), lines[-1])


class LostRanksError(UserError):
    """Another process of the run ended, or cannot be reached, while this one needed it."""


@contextmanager
def lost_ranks_named() -> Iterator[None]:
    """Turns the error that a collective raises if a rank is gone into LostRanksError."""
    try:
        yield
    except RuntimeError as error:
        # gloo's errors have no type of their own; they begin with the place in its sources.
        if not isinstance(error, DistError) and "gloo" not in str(error):
            raise
        what = str(error).split("] ", 1)[-1].split(". ")[0].splitlines()[0]
        raise LostRanksError(
            f"another process of this run ended or cannot be reached ({what}): its own message says why, or the "
            "launcher's report. Training goes on from the last checkpoint with resume=auto"
        ) from error
