"""Which times of a call are measured, and how they follow from a GPU's events and the host's clock."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Literal

from litedetr.kernels.bench.cuda_gpu import CudaGpu, NotCapturedError, Step

Timed = Literal["graph", "eager"]

REPLAY_MS = 1.0  # a graph takes about so long: events and its launch take some microseconds
MOST_UNROLLED = 64  # calls in one graph
FEWEST_ROUNDS, MOST_ROUNDS = 5, 1000
ESTIMATES = 3
HOST_CALLS, HOST_ROUNDS = 20, 7
LONG_MS = 2.0  # 20 longer calls may fill the launch queue, and the host would wait: they are timed one at a time


@dataclass(frozen=True)
class Timing:
    """Medians per call. On a CPU only eager_ms and peak_mib are measured."""

    eager_ms: float  # calls one behind the other from the host: the slower one of host and device
    peak_mib: float  # memory that tensors take on top of what is there before
    warm_ms: float | None = None  # replays of a CUDA graph; caches hold what the call before left
    cold_ms: float | None = None  # the same, with the L2 cache overwritten before each call
    host_us: float | None = None  # microseconds until the host has enqueued a call
    note: str = ""  # why there is no graph

    @property
    def timed(self) -> Timed:
        """What `milliseconds` is of."""
        return "eager" if self.warm_ms is None else "graph"

    @property
    def milliseconds(self) -> float:
        """The time to compare: a warm replay on a GPU, else eager."""
        return self.by(self.timed)

    def by(self, timed: Timed) -> float:
        """Milliseconds of one kind, which must have been measured."""
        return self.warm_ms if timed == "graph" else self.eager_ms

    def comparable(self, other: Timing) -> Timed:
        """The kind of time that both have, so that a replay is never compared with calls from the host."""
        return "graph" if self.timed == other.timed == "graph" else "eager"


def time_on_gpu(step: Step, gpu: CudaGpu, milliseconds: float, graphs: bool = True) -> Timing:
    """Time a step. Eager calls, warm replays, cold replays and flushes take about `milliseconds` each.

    graphs: False for steps that change what they work on, such as an optimiser's: they are timed eagerly only.
    """
    peak = gpu.peak_mib(step)
    estimate = _estimate(gpu, step)
    eager = _per_call(gpu, step, _unrolled(estimate), milliseconds)
    host = _host_microseconds(step, gpu, 1 if estimate > LONG_MS else HOST_CALLS)
    if not graphs:
        return Timing(eager, peak, host_us=host, note="not repeatable in a graph")
    try:
        gpu.require_no_waits(step)
        warm, cold = warm_milliseconds(step, gpu, milliseconds), cold_milliseconds(step, gpu, milliseconds)
    except NotCapturedError as reason:
        return Timing(eager, peak, host_us=host, note=str(reason))
    return Timing(eager, peak, warm, cold, host)


def warm_milliseconds(step: Step, gpu: CudaGpu, milliseconds: float) -> float:
    """Median per call, replayed from a CUDA graph of many calls. Raises NotCapturedError."""
    return _replayed(gpu, step, _unrolled(_estimate(gpu, step)), milliseconds)


def cold_milliseconds(step: Step, gpu: CudaGpu, milliseconds: float) -> float:
    """The same with a flush before each call, minus the time of as many flushes. Raises NotCapturedError."""

    def flushed() -> None:
        gpu.flush()
        step()

    calls = _unrolled(_estimate(gpu, flushed))
    return _replayed(gpu, flushed, calls, milliseconds) - _replayed(gpu, gpu.flush, calls, milliseconds)


def _replayed(gpu: CudaGpu, step: Step, calls: int, milliseconds: float) -> float:
    return _per_call(gpu, gpu.capture(_times(step, calls)), 1, milliseconds) / calls


def _per_call(gpu: CudaGpu, step: Step, calls: int, milliseconds: float) -> float:
    """Median over rounds of so many calls, of one call."""
    body = _times(step, calls)
    once = _estimate(gpu, body)
    rounds = min(max(round(milliseconds / max(once, 1e-3)), FEWEST_ROUNDS), MOST_ROUNDS)
    return statistics.median(gpu.elapsed(body, rounds)) / calls


def _estimate(gpu: CudaGpu, step: Step) -> float:
    return statistics.median(gpu.elapsed(step, ESTIMATES))


def _unrolled(estimate: float) -> int:
    """Calls that take about REPLAY_MS."""
    return min(max(1, math.ceil(REPLAY_MS / max(estimate, 1e-3))), MOST_UNROLLED)


def _times(step: Step, calls: int) -> Step:
    def body() -> None:
        for _ in range(calls):
            step()

    return body


def _host_microseconds(step: Step, gpu: CudaGpu, calls: int) -> float:
    """Microseconds per call, from an idle GPU on, of so few calls that none waits for room in the launch queue."""
    found = []
    for _ in range(HOST_ROUNDS):
        gpu.synchronize()
        start = gpu.now()
        for _ in range(calls):
            step()
        found.append((gpu.now() - start) / calls * 1e6)
    gpu.synchronize()
    return statistics.median(found)
