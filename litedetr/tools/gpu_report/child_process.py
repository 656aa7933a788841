"""Runs a command in a process of its own with a time limit, so that its crash or hang does not end the report."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

LONGEST_REASON = 300  # letters
MOST_OUTPUT = 64 * 2**20  # bytes of a step's log
LAST_BYTES = 2**16  # from its end, in which the last line is looked for
POLL_SECONDS = 0.5
SIGNALS = {number.value: number.name for number in signal.Signals}

Stopped = Literal["failed", "timed out"]


@dataclass(frozen=True)
class Outcome:
    """How a step ended."""

    status: Literal["done", "failed", "timed out", "skipped", "not reached"]
    seconds: float = 0.0
    reason: str = ""


def in_child(command: Sequence[str], log: Path, limit: float, environment: Mapping[str, str]) -> Outcome:
    """Run a command for at most `limit` seconds; its output goes to `log`, of at most MOST_OUTPUT.

    It leads a process group of its own. The whole group is killed at the limit, when the command or this process ends,
    and (see `end_with_parent`) when this process is killed.
    """
    start = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,
        )
        try:
            stopped = _wait(process, log, start + limit)
        finally:
            with suppress(ProcessLookupError):  # also what a step that ended well has left running
                os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
            process.stdin.close()
    return _outcome(stopped, code, time.monotonic() - start, log)


def _wait(process: subprocess.Popen, log: Path, end: float) -> Stopped | None:
    """Until it ends by itself (None), or has to be ended."""
    while True:
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=max(0.0, min(POLL_SECONDS, end - time.monotonic())))
            return None
        if log.stat().st_size > MOST_OUTPUT:
            return "failed"
        if time.monotonic() >= end:
            return "timed out"


def _outcome(stopped: Stopped | None, code: int, seconds: float, log: Path) -> Outcome:
    if stopped is None and code == 0:
        return Outcome("done", seconds)
    last_line = _last_line(log)
    if stopped == "timed out":
        return Outcome(stopped, seconds, f"ended after {seconds:.0f} s; {last_line}")
    if stopped is not None:
        os.truncate(log, MOST_OUTPUT)
        return Outcome(stopped, seconds, f"ended after {MOST_OUTPUT >> 20} MiB of output; {last_line}")
    how = f"signal {SIGNALS.get(-code, -code)}" if code < 0 else f"exit code {code}"
    return Outcome("failed", seconds, f"{how}; {last_line}")


def _last_line(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LAST_BYTES))
        tail = file.read(LAST_BYTES).decode("utf-8", "replace")
    lines = [line.strip() for line in tail.splitlines() if line.strip()]
    return f"last line: {lines[-1][:LONGEST_REASON]}" if lines else "no output"


def end_with_parent() -> None:
    """Call this in the child before it has threads: its process group is killed when the parent ends, in whatever way.

    A process of its own notices it by the child's stdin, a pipe that ends with the parent. No thread: a step that hangs
    may keep Python's lock.
    """
    if os.fork():
        return
    with suppress(OSError):
        while os.read(sys.stdin.fileno(), 1):
            pass
    os.killpg(0, signal.SIGKILL)
