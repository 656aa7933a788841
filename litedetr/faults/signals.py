"""A polite end: a signal is noted, and the loop leaves where nothing is lost."""

from __future__ import annotations

import signal
from types import FrameType

# SIGHUP: the terminal was closed. Windows has none.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))


class Interrupted(Exception):
    """A signal asked to stop, and the work was left with its state saved. what: told after the name of the signal."""

    def __init__(self, signum: int, what: str) -> None:
        super().__init__(f"{signal.Signals(signum).name}: {what}")
        self.signum = signum


class StopRequest:
    """While entered, the SIGNALS set `signum` (0: none) instead of ending the process.

    Those that are ignored already stay so: nohup means it. Repeated ones change nothing: launchers forward a signal
    that the process has already had.
    """

    signum = 0

    def __enter__(self) -> StopRequest:
        self._previous = {number: signal.signal(number, self._note) for number in SIGNALS if not _ignored(number)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum


def _ignored(number: int) -> bool:
    """SIGINT never: shells ignore it for whatever they start in the background."""
    return number != signal.SIGINT and signal.getsignal(number) is signal.SIG_IGN


def leave_signals_to_parent(worker: int) -> None:
    """For data workers: Ctrl-C and a group's SIGTERM reach them too, but the training process still needs them."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
