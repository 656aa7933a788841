"""The machine that is measured: its clocks, and what the figures hold for."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from litedetr.engine.distributed import choose_device
from litedetr.kernels.bench.side_by_side import side_by_side
from litedetr.kernels.bench.timing import Step, Timing
from litedetr.tools.benchmark.benchmark_config import BenchmarkConfig
from litedetr.tools.benchmark.own_process import time_in_own_process
from litedetr.tools.tables import write_csv


@dataclass(frozen=True)
class Machine:
    """What the figures hold for."""

    device: torch.device
    rounds: int  # turns on a CPU, milliseconds of each kind of timing on a GPU

    @classmethod
    def prepare(cls, config: BenchmarkConfig) -> Machine:
        """With the configured number of threads."""
        device = choose_device(config.device)
        torch.set_num_threads(config.threads or os.cpu_count())
        return cls(device, config.rounds or (5 if device.type == "cpu" else 100))

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

    def write(self, path: Path, kind: type, rows: Sequence[Any]) -> Path:
        """Rows of the dataclass `kind` as CSV, each with what it was measured on."""
        names = [*(field.name for field in fields(kind)), *self.facts]
        return write_csv(path, names, (asdict(row) | self.facts for row in rows))
