"""Runs a command in a process of its own with a time limit, so that its crash or hang does not end the report."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

LONGEST_REASON = 300  # letters


@dataclass(frozen=True)
class Outcome:
    """How a step ended."""

    status: Literal["done", "failed", "timed out", "skipped", "not reached"]
    seconds: float = 0.0
    reason: str = ""


def run_child(command: Sequence[str], log: Path, limit: float, environment: Mapping[str, str]) -> Outcome:
    """Run a command for at most `limit` seconds; its output goes to `log`.

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
            code = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with suppress(ProcessLookupError):  # also what a step that ended well has left running
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process.stdin.close()
    seconds = time.monotonic() - start
    if code is None:
        return Outcome("timed out", seconds, f"ended after {limit:.0f} s; {_last_line(log)}")
    if code == 0:
        return Outcome("done", seconds)
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return Outcome("failed", seconds, f"{how}; {_last_line(log)}")


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return f"last line: {lines[-1][:LONGEST_REASON]}" if lines else "no output"


def end_with_parent() -> None:
    """Call this in the child: its process group is killed when the parent ends, in whatever way.

    The child notices it by its stdin, a pipe that ends with the parent.
    """

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 1):  # not sys.stdin.read: Python would wait for its lock at exit
            pass
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
