"""Measure the GPU that is here, and write one page of figures, for you and for a bug report.

python scripts/gpu_report.py                        # all steps, 24 minutes at most
python scripts/gpu_report.py budget=480             # in at most 480 seconds; the last steps are left out
python scripts/gpu_report.py steps=[machine,host]   # only these; they complete the page of an earlier report
python scripts/gpu_report.py steps=[]               # none: make the page again from the rows that are there
python scripts/gpu_report.py rehearse=true          # every step at tiny sizes, also without a GPU

Settings: budget, steps, rehearse, output (runs/gpu_report). Results go to <output>/<gpu>/: report.md, plots, rows.jsonl
with every figure as soon as it is known, and the output of each step in logs/. docs/gpu.md explains steps and figures.
Steps, in their order: machine, suite, attention, memory_access, host, detectors, step, training, tools, autotune.
detectors, step, training and autotune need all of the project's packages; the others torch, Triton, NumPy and pytest.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

SCRIPTS = Path(__file__).resolve().parent
sys.path.insert(0, str(SCRIPTS.parent))  # from a clone too, without an installation

from litedetr.settings import ConfigError  # noqa: E402
from litedetr.tools.gpu_report.page import write_page  # noqa: E402
from litedetr.tools.gpu_report.report import Report  # noqa: E402
from litedetr.tools.gpu_report.report_config import ReportConfig  # noqa: E402

ENDINGS = (signal.SIGTERM, signal.SIGHUP)  # beside Ctrl-C


def main(arguments: list[str]) -> int:
    """The exit code: 1 if a step failed, 2 for a setting or a folder that cannot be used."""
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    try:
        report = Report.prepare(ReportConfig.from_arguments(arguments), SCRIPTS / "_gpu_report_step.py")
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for number in ENDINGS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, _as_interrupt)
    try:
        return 1 if run(report) else 0
    except BrokenPipeError:  # the reader had enough: gpu_report.py | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:  # a disk that is full
        print(f"error: {error.filename or report.folder}: {error.strerror}", file=sys.stderr)
        return 2


def run(report: Report) -> bool:
    """Whether a step failed."""
    failed = False
    try:
        for step, outcome in report.run():
            failed |= outcome.status in ("failed", "timed out")
            print(f"{step.name:15}{outcome.status:12}{outcome.seconds:6.0f} s  {outcome.reason}", flush=True)
    finally:  # an interrupted report has a page too
        print(write_page(report.folder), flush=True)
    return failed


def _as_interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
