"""A GPU that only keeps time: what torch.cuda gives to whoever captures graphs, with a host and a device clock."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace

import torch

LAUNCH = 2e-6  # seconds that the host takes for an event or a graph
FLUSH = 40e-6


def new_stream() -> SimpleNamespace:
    return SimpleNamespace(wait_stream=lambda other: None)


class FakeCuda:
    """Work is enqueued by `launch`, by what is timed, and by `flush`; nothing is computed."""

    def __init__(self) -> None:
        self.host = 0.0  # seconds
        self.busy_until = 0.0  # of the device
        self.is_cold = False  # its L2 cache
        self.captured: list[Callable[[], None]] | None = None
        self.mode: str | int = 0
        self.memory = [0, 0]  # now, peak
        self.stream = self.main = new_stream()  # the current one, and the first
        self.captures: list[tuple[object, object]] = []  # the pool and the stream of each

    def launch(self, device: float, host: float, cold: float | None = None) -> None:
        """Work of `device` seconds, `cold` after a flush, that takes the host `host` seconds to enqueue."""
        self._enqueue(lambda: self._work(cold if self.is_cold and cold else device, False), host)

    def flush(self) -> None:
        self._enqueue(lambda: self._work(FLUSH, True), LAUNCH)

    def _enqueue(self, work: Callable[[], None], host: float) -> None:
        self.host += host
        if self.captured is None:
            work()
        else:
            self.captured.append(work)

    def _work(self, seconds: float, is_cold: bool) -> None:
        self.busy_until = max(self.host, self.busy_until) + seconds
        self.is_cold = is_cold

    def wait(self) -> None:
        """What `.item()` does."""
        if self.mode == "error":
            raise RuntimeError("called a synchronizing CUDA operation")
        if self.captured is not None:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        self.synchronize()

    def synchronize(self, device: object = None) -> None:
        assert self.captured is None
        self.host = max(self.host, self.busy_until)

    def install(self, monkeypatch) -> None:
        """Stand in for torch.cuda."""
        fake = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self, stream: object) -> None:
                fake.host += LAUNCH
                self.time = max(fake.host, fake.busy_until)

            def elapsed_time(self, end: Event) -> float:
                return (end.time - self.time) * 1e3

        class Graph:
            def replay(self) -> None:
                fake.host += LAUNCH
                for work in self.work:
                    work()

        class Capture:
            """As torch.cuda.graph: what fails within is followed by an error of its own, and the stream stays."""

            def __init__(
                self, graph: Graph, pool: object = None, stream: object = None, capture_error_mode: str = "global"
            ) -> None:
                self.graph, self.stream, self.before = graph, stream, fake.stream
                fake.captures.append((pool, stream))

            def __enter__(self) -> None:
                fake.captured, fake.stream = [], self.stream

            def __exit__(self, kind: object, *_: object) -> None:
                self.graph.work, fake.captured = fake.captured, None
                if kind is not None:
                    raise RuntimeError("operation failed due to a previous error during capture")
                fake.stream = self.before

        class StreamContext:
            def __init__(self, stream: object) -> None:
                self.stream = stream

            def __enter__(self) -> None:
                self.before, fake.stream = fake.stream, self.stream

            def __exit__(self, *_: object) -> None:
                fake.stream = self.before

        instead = {
            "Event": Event,
            "CUDAGraph": Graph,
            "graph": Capture,
            "Stream": lambda device: new_stream(),
            "current_stream": lambda device=None: self.stream,
            "stream": StreamContext,
            "device": lambda device: nullcontext(),
            "graph_pool_handle": object,
            "synchronize": self.synchronize,
            "get_sync_debug_mode": lambda: self.mode,
            "set_sync_debug_mode": lambda mode: setattr(self, "mode", mode),
            "memory_allocated": lambda device: self.memory[0],
            "max_memory_allocated": lambda device: self.memory[1],
            "reset_peak_memory_stats": lambda device: self.memory.__setitem__(1, self.memory[0]),
            "get_device_properties": lambda device: SimpleNamespace(
                L2_cache_size=1 << 10, multi_processor_count=4, clock_rate=1e6
            ),
        }
        for name, value in instead.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr("litedetr.kernels.bench.cuda_gpu.time", SimpleNamespace(perf_counter=lambda: self.host))
