"""What is said when another process of the run ends too early."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch.distributed import DistError

from litedetr.faults.errors import UserError


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
