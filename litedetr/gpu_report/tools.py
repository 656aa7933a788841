"""NVIDIA's tools on the kernels: reads and writes out of bounds, races, and the hardware's own counters."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from litedetr.gpu_report.plan import Context, Row, Tell

ROOT = Path(__file__).parent.parent.parent
CHECKS = ("memcheck", "racecheck")
FOUND_ERRORS = 9  # exit code
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


def run(context: Context, tell: Tell) -> None:
    number = 1 if context.rehearse else None
    if context.rehearse or shutil.which("compute-sanitizer"):
        for check in CHECKS[:number]:
            tell({"kind": "compute-sanitizer", "check": check} | _sanitized(check, context))
    if context.rehearse or shutil.which("ncu"):
        for kernel in KERNELS[:number]:
            for row in _counted(kernel, context):
                tell({"kind": "ncu", "kernel": kernel} | row)


def _sanitized(check: str, context: Context) -> Row:
    """PyTorch's allocator would hide what is read beyond a tensor: it is switched off."""
    tool = ("compute-sanitizer", "--tool", check, "--error-exitcode", str(FOUND_ERRORS))
    done = _run(tool, "tiny", context, {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"})
    clean = done.returncode == 0
    return {"clean": clean, "exit_code": done.returncode, "said": "" if clean else _last(done.stdout)}


def _counted(kernel: str, context: Context) -> list[Row]:
    """The counters of one launch. The card's clocks are left as they are."""
    chosen = ("--kernel-name", f"regex:{kernel}", "--launch-skip", "1", "--launch-count", "1")
    tool = ("ncu", "--csv", "--clock-control", "none", *chosen, "--metrics", ",".join(COUNTERS))
    done = _run(tool, "tiny" if context.rehearse else "full", context, {})
    failure = {"counter": None, "exit_code": done.returncode, "said": _last(done.stdout)}
    return read_counters(done.stdout) or [failure]


def _last(output: str) -> str:
    return " / ".join(output.splitlines()[-LAST_LINES:])


def _run(
    tool: Sequence[str], size: str, context: Context, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Some calls of the kernels under a tool; a rehearsal without it tries the calls."""
    prefix = tool if shutil.which(tool[0]) and context.device == "cuda" else ()
    command = (*prefix, sys.executable, "-m", "litedetr.gpu_report.one_call", context.device, size)
    return subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


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
