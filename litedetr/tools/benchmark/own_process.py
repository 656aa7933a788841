"""A step in a process of its own: what memory it takes is seen only in one that has never been larger."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from litedetr.kernels.bench.timing import Step

STATUS = Path("/proc/self/status")  # of Linux


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
