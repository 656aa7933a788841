"""A short scripts/autotune.py: what the fastest launches gain over the rule's. The kernels do not read its file."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from litedetr.kernels.bench.jobs import Job
from litedetr.kernels.bench.tuning import Tuned, save, tune
from litedetr.kernels.bench.workloads import Workload
from litedetr.kernels.fused.launch import Shape, read_entries
from litedetr.paths import CLONE
from litedetr.tools.gpu_report.plan import Context, Tell
from litedetr.tools.gpu_report.steps.attention import TINY

AUTOTUNE = CLONE / "scripts" / "autotune.py"
FOLDER = "tuned"
SPARE_SECONDS = 25.0  # for the start and the end of the process
REHEARSED_SECONDS = 3.0


def measure_step(context: Context, tell: Tell) -> None:
    folder = context.folder / FOLDER
    if context.rehearse:
        _rehearse(folder, torch.device(context.device))
    else:
        budget = max(context.seconds - SPARE_SECONDS, 1.0)
        settings = ("dtypes=[bfloat16]", f"budget_s={budget:.0f}", f"output={folder}")
        subprocess.run([sys.executable, str(AUTOTUNE), *settings], check=True)
    for path in folder.glob("*.json"):
        for shape, entry in read_entries(path).items():
            tell(_row(shape, entry))


def _row(shape: Shape, entry: Mapping[str, Any]) -> dict[str, Any]:
    before, after = entry["rule_milliseconds"], entry["milliseconds"]
    what = {"run": shape.pass_name} | {name: getattr(shape, name) for name in ("score", "dtype", "queries")}
    chosen = ", ".join(f"{name} {value}" for name, value in entry["launch"].items() if value is not None)
    return {"kind": "launches"} | what | {"rule_ms": before, "ms": after, "ratio": before / after, "launch": chosen}


def _rehearse(folder: Path, device: torch.device) -> None:
    """A few candidates of one small call, timed by the clock."""
    end = time.monotonic() + REHEARSED_SECONDS
    sizes = TINY | {"shapes": TINY["shapes"][2:]}
    workload = Workload("key_aware_shared", torch.float32, (0, 1), **sizes)
    for found in tune(Job(workload, "forward"), device, _clock, over=lambda: time.monotonic() > end):
        if isinstance(found, Tuned):
            save([found], "rehearsal", folder)


def _clock(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3
