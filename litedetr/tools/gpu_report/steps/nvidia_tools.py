"""NVIDIA's tools on the kernels: reads and writes out of bounds, races, and the hardware's own counters."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from litedetr.paths import CLONE
from litedetr.tools.gpu_report.plan import Context, Row, Tell

# With the options of each. PyTorch asks the driver for what it may not have, which is no error of a kernel's.
CHECKS = {"memcheck": ("--report-api-errors", "no"), "racecheck": ()}
FOUND_ERRORS = 9  # exit code
SPARE_SECONDS = 5.0  # at the end of the step
LAST_LINES = 5  # of the output, where errors were found
COUNTERS = (
    "gpu__time_duration.sum",
    "smsp__inst_executed.sum",
    "smsp__issue_active.avg.pct_of_peak_sustained_active",
    "sm__warps_active.avg.pct_of_peak_sustained_active",
    "l1tex__t_sector_hit_rate.pct",
    "l1tex__data_bank_conflicts_pipe_lsu.sum",
    "l1tex__throughput.avg.pct_of_peak_sustained_active",
    "lts__t_sector_hit_rate.pct",
    "lts__throughput.avg.pct_of_peak_sustained_elapsed",
    "dram__bytes.sum",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed",
    "launch__registers_per_thread",
    "launch__occupancy_limit_registers",
)
KERNELS = ("forward_kernel", "backward_kernel")


@dataclass(frozen=True)
class Done:
    """How a call of a tool ended."""

    exit_code: int | None  # None: it was ended at its limit of seconds
    output: str

    @property
    def last_words(self) -> str:
        return " / ".join(self.output.splitlines()[-LAST_LINES:])


def measure_step(context: Context, tell: Tell) -> None:
    """Each call of a tool gets its share of the time that is left, so that one that hangs leaves time for others."""
    end = time.monotonic() + context.seconds - SPARE_SECONDS
    tools = {"compute-sanitizer": (_sanitized, list(CHECKS)), "ncu": (_counted, KERNELS)}
    there = {name: tool for name, tool in tools.items() if context.rehearse or shutil.which(name)}
    most = 1 if context.rehearse else None  # of each tool
    uses = [(name, look, what) for name, (look, found) in there.items() for what in found[:most]]
    for number, (name, look, what) in enumerate(uses):
        limit = max((end - time.monotonic()) / (len(uses) - number), 1.0)
        for row in look(what, context, limit):
            tell({"kind": name} | row)


def _sanitized(check: str, context: Context, limit: float) -> Iterator[Row]:
    """PyTorch's allocator would hide what is read beyond a tensor: it is switched off."""
    tool = ("compute-sanitizer", "--tool", check, *CHECKS[check], "--error-exitcode", str(FOUND_ERRORS))
    done = _call(tool, "tiny", context, limit, {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"})
    clean = {0: True, FOUND_ERRORS: False}.get(done.exit_code)  # None: the tool itself failed, or was ended
    yield {"check": check, "clean": clean, "exit_code": done.exit_code, "said": "" if clean else done.last_words}


def _counted(kernel: str, context: Context, limit: float) -> Iterator[Row]:
    """The counters of one launch. The card's clocks are left as they are."""
    chosen = ("--kernel-name", f"regex:{kernel}", "--launch-skip", "1", "--launch-count", "1")
    tool = ("ncu", "--csv", "--clock-control", "none", *chosen, "--metrics", ",".join(COUNTERS))
    done = _call(tool, "tiny" if context.rehearse else "full", context, limit, {})
    failure = {"counter": None, "exit_code": done.exit_code, "said": done.last_words}
    for row in read_counters(done.output) or [failure]:
        yield {"kernel": kernel} | row


def _call(tool: Sequence[str], size: str, context: Context, limit: float, environment: Mapping[str, str]) -> Done:
    """Some calls of the kernels under a tool; a rehearsal without it tries the calls."""
    prefix = tool if shutil.which(tool[0]) and context.device == "cuda" else ()
    command = (*prefix, sys.executable, "-m", "litedetr.tools.gpu_report.steps.kernel_calls", context.device, size)
    exit_code = None
    with tempfile.TemporaryFile() as log:  # no pipe: what is left of a call that was ended may still write to it
        streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
        with suppress(subprocess.TimeoutExpired):
            done = subprocess.run(command, cwd=CLONE, env=os.environ | environment, timeout=limit, **streams)
            exit_code = done.returncode
        log.seek(0)
        return Done(exit_code, log.read().decode(errors="replace"))


def read_counters(output: str) -> list[Row]:
    """What `ncu --csv` prints: lines of its own, then a table with a line for each counter."""
    lines = output.splitlines()
    start = next((number for number, line in enumerate(lines) if line.startswith('"ID"')), len(lines))
    table = csv.DictReader(lines[start:])
    return [
        {"counter": line["Metric Name"], "unit": line["Metric Unit"], "value": line["Metric Value"]}
        for line in table
        if line.get("Metric Name")
    ]
