"""What timing needs of PyTorch's GPU: events, CUDA graphs, a buffer that overwrites the L2 cache."""

from __future__ import annotations

import gc
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

Step = Callable[[], object]

LEAD = 2  # untimed calls in front: the host runs ahead of the GPU, so no event waits for it
WARM_UPS = 2  # on the stream of the capture: caches fill, kernels load
FLUSH_OVER_L2 = 2
USUAL_L2 = 64 << 20  # bytes, if PyTorch does not say
MIB = 2**20


class NotCapturedError(Exception):
    """A step cannot be captured in a CUDA graph; the message says why."""


@dataclass(frozen=True)
class CudaGpu:
    """A GPU, and the host's clock beside it."""

    device: torch.device  # the GPU
    buffer: Tensor  # what a flush overwrites

    @classmethod
    def of(cls, device: torch.device) -> CudaGpu:
        size = getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0) or USUAL_L2
        return cls(device, torch.empty(FLUSH_OVER_L2 * size, dtype=torch.uint8, device=device))

    def now(self) -> float:
        """The host's clock in seconds."""
        return time.perf_counter()

    def synchronize(self) -> None:
        """Wait until all work is done."""
        torch.cuda.synchronize(self.device)

    def elapsed(self, call: Step, rounds: int) -> list[float]:
        """Milliseconds of each of `rounds` calls, one behind the other without waiting, by events around each."""
        stream = torch.cuda.current_stream(self.device)
        pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(rounds)]
        for _ in range(LEAD):
            call()
        for start, end in pairs:
            start.record(stream)
            call()
            end.record(stream)
        self.synchronize()
        return [start.elapsed_time(end) for start, end in pairs]

    def require_no_waits(self, step: Step) -> None:
        """Raise NotCapturedError if the host waits for the GPU within the step.

        In the mode in which PyTorch raises at a wait, as a capture that fails there leaves traces.
        """
        step()  # the first one may compile, or copy constants that are kept
        mode = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the mode is a prototype
            torch.cuda.set_sync_debug_mode("error")
        try:
            step()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise NotCapturedError(f"eager only: {_first_line(error)}") from error
        finally:
            torch.cuda.set_sync_debug_mode(mode)

    def capture(self, body: Step) -> Step:
        """A function that replays what `body` launches; NotCapturedError if there is something no graph can hold."""
        main, side = torch.cuda.current_stream(self.device), torch.cuda.Stream(self.device)
        side.wait_stream(main)
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                body()
        main.wait_stream(side)
        self.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            # the outer one: without it a capture that fails would leave its stream the current one
            with no_collection(), torch.cuda.stream(side), torch.cuda.graph(graph, stream=side):
                body()
        except RuntimeError as error:
            cause = error.__context__ or error  # what broke the capture, before it could not be ended
            if isinstance(cause, torch.OutOfMemoryError):
                raise cause from None
            raise NotCapturedError(f"eager only: {_first_line(cause)}") from error
        return graph.replay

    def flush(self) -> None:
        """Enqueue a write to more memory than the L2 cache holds."""
        self.buffer.zero_()

    def peak_mib(self, step: Step) -> float:
        """Memory that a warm step takes on top of what is there before it."""
        step()
        self.synchronize()
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        step()
        self.synchronize()
        return (torch.cuda.max_memory_allocated(self.device) - before) / MIB


@contextmanager
def no_collection() -> Iterator[None]:
    """For a capture: a Triton kernel that is collected would unload its module, which a capture forbids."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
