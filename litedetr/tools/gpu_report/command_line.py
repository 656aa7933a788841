"""scripts/gpu_report.py without its help: settings from arguments, signals, what is printed, the exit code."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from litedetr.settings import ConfigError
from litedetr.tools.gpu_report.page import write_page
from litedetr.tools.gpu_report.report import Report, ReportConfig

ENDINGS = (signal.SIGTERM, signal.SIGHUP)  # beside Ctrl-C


def main(arguments: Sequence[str]) -> int:
    """The exit code: 1 if a step failed, 2 for a setting or a folder that cannot be used, 130 after an interrupt."""
    try:
        report = Report.prepare(ReportConfig.from_arguments(arguments))
        for number in ENDINGS:
            if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
                signal.signal(number, _as_interrupt)
        return _write_report(report)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _write_report(report: Report) -> int:
    failed = False
    try:
        try:
            for step, outcome in report.steps_in_turn():
                failed |= outcome.status in ("failed", "timed out")
                print(f"{step.name:15}{outcome.status:12}{outcome.seconds:6.0f} s  {outcome.reason}", flush=True)
        finally:  # an interrupted report has a page too
            print(write_page(report.folder), flush=True)
    except BrokenPipeError:  # the reader had enough: gpu_report.py | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:  # a disk that is full
        print(f"error: {error.filename or report.folder}: {error.strerror}", file=sys.stderr)
        return 2
    return 1 if failed else 0


def _as_interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt
