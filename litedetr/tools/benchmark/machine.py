"""The machine that is measured: its clocks, and what the figures hold for."""

from __future__ import annotations

import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from litedetr.engine.distributed import choose_device
from litedetr.kernels.bench.cuda_gpu import Step
from litedetr.kernels.bench.side_by_side import side_by_side
from litedetr.kernels.bench.timing import Timing
from litedetr.paths import user_path
from litedetr.tools.benchmark.benchmark_config import BenchmarkConfig
from litedetr.tools.tables import write_csv

STATUS = Path("/proc/self/status")  # of Linux


@dataclass(frozen=True)
class Machine:
    """What the figures hold for."""

    device: torch.device
    rounds: int  # turns on a CPU, milliseconds of each kind of timing on a GPU
    output: Path  # the folder of the files

    @classmethod
    def prepare(cls, config: BenchmarkConfig) -> Machine:
        """With the configured number of threads."""
        device = choose_device(config.device)
        torch.set_num_threads(config.threads or os.cpu_count())
        return cls(device, config.rounds or (5 if device.type == "cpu" else 100), user_path(config.output))

    @property
    def facts(self) -> dict[str, str]:
        on_gpu = self.device.type == "cuda"
        threads = f"{platform.machine()}, {torch.get_num_threads()} threads"
        name = torch.cuda.get_device_name(self.device) if on_gpu else threads
        return {"device": name, "torch": torch.__version__, "python": platform.python_version()}

    def clock(self, steps: dict[str, Step], graphs: bool) -> dict[str, Timing]:
        """See model_rows.Clock."""
        return side_by_side(steps, self.device, self.rounds, graphs)

    def clock_memory(self, make_step: Callable[[], Step]) -> tuple[float, float | None]:
        """Median milliseconds of one step from the host, and its peak in MiB: on a CPU in a process of its own, whose
        memory is then the step's.
        """
        if self.device.type == "cpu":
            return time_in_own_process(make_step, self.rounds, torch.get_num_threads())
        timing = self.clock({"step": make_step()}, graphs=False)["step"]
        return timing.eager_ms, timing.peak_mib

    def write(self, name: str, kind: type, rows: Sequence[Any]) -> Path:
        """Rows of the dataclass `kind` as CSV, each with what it was measured on."""
        names = [*(field.name for field in fields(kind)), *self.facts]
        return write_csv(self.output / name, names, (asdict(row) | self.facts for row in rows))


def time_in_own_process(make_step: Callable[[], Step], rounds: int, threads: int) -> tuple[float, float | None]:
    """Median milliseconds of `rounds` steps on a CPU, and the peak in MiB of what the first one takes.

    make_step: can be pickled; it is called in the new process. Memory is the process's own, with what operators take
    for themselves and allocators round up; None if the system is not Linux. Raises BrokenProcessPool if the process
    was killed, as it is for memory.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measure, make_step, rounds, threads).result()


def _measure(make_step: Callable[[], Step], rounds: int, threads: int) -> tuple[float, float | None]:
    torch.set_num_threads(threads)
    step = make_step()
    before = _mib("VmRSS")
    step()
    peak = None if before is None else max(_mib("VmHWM") - before, 0.0)
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds) * 1e3, peak


def _mib(name: str) -> float | None:
    """VmRSS, what the process holds now, or VmHWM, the most that it ever held."""
    if not STATUS.exists():
        return None
    lines = STATUS.read_text(encoding="utf-8", errors="replace").splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) / 1024
