"""The kernels' tests on this GPU, in parallel if pytest-xdist is installed."""

from __future__ import annotations

import os
from collections import Counter
from importlib.util import find_spec

import pytest

from litedetr.paths import CLONE
from litedetr.tools.gpu_report.plan import Context, Row, Tell

MOST_PROCESSES = 12  # each holds a context of the GPU
REHEARSED = "tests/kernels/test_limits.py"
EVERY = 50  # tests between two counts


class Reporter:
    """A pytest plugin that tells each failure, and counts."""

    def __init__(self, tell: Tell) -> None:
        self.tell = tell
        self.counts: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.outcome == "passed":  # set up and taken down
            return
        self.counts[report.outcome] += 1
        if report.outcome == "failed":
            message = getattr(getattr(report.longrepr, "reprcrash", None), "message", str(report.longrepr))
            self.tell({"kind": "failed test", "test": report.nodeid, "message": message.partition("\n")[0]})
        if sum(self.counts.values()) % EVERY == 0:
            self.tell(self.count())

    def count(self) -> Row:
        return {"kind": "tests"} | {name: self.counts[name] for name in ("passed", "failed", "skipped")}


def measure_step(context: Context, tell: Tell) -> None:
    """The last row of kind `tests` counts them all, and has an `exit_code` if they came to their end."""
    reporter = Reporter(tell)
    tests = CLONE / (REHEARSED if context.rehearse else "tests/kernels")
    processes = min(MOST_PROCESSES, os.cpu_count() or 1) if find_spec("xdist") and not context.rehearse else 1
    parallel = ("-n", str(processes)) if processes > 1 else ()
    code = pytest.main([f"--rootdir={CLONE}", str(tests), "-q", *parallel], plugins=[reporter])
    tell(reporter.count() | {"exit_code": int(code), "processes": processes})
