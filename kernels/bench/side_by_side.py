"""Times of calls side by side in one process."""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from litedetr.kernels.bench.accuracy import by_name
from litedetr.kernels.bench.cuda_gpu import CudaGpu, Step
from litedetr.kernels.bench.peers import Attend
from litedetr.kernels.bench.timing import Timing, time_on_gpu
from litedetr.kernels.inputs import Inputs

STDERR = 2  # the file descriptor, which C++ writes to
KINETO_NOTES = (b"USDT:", b"STAGE:")


def forward_step(attend: Attend, inputs: Inputs) -> Step:
    """Only the forward pass, without autograd."""

    def step() -> Tensor:
        with torch.no_grad():
            return attend(inputs)

    return step


def training_step(attend: Attend, inputs: Inputs, grad_out: Tensor) -> Step:
    """Forward and backward pass; returns the output and the gradients by name. grad_out: (B, Q, M * D)."""

    def step() -> dict[str, Tensor]:
        leaves = [x for x in inputs.tensors if x is not None and x.requires_grad]
        out = attend(inputs)
        grads = iter(torch.autograd.grad(out, leaves, grad_out))
        wanted = [None if x is None or not x.requires_grad else next(grads) for x in inputs.tensors]
        return {"out": out} | by_name(wanted)

    return step


def side_by_side(
    steps: dict[str, Step], device: torch.device, rounds: int, graphs: bool = True, gpu: CudaGpu | None = None
) -> dict[str, Timing]:
    """On a CPU in turns, so that what disturbs one disturbs all; on a GPU one after the other, eager and by replays.

    rounds: turns on a CPU, milliseconds of each kind of timing on a GPU. graphs: False for steps that change what they
    work on. gpu: stands in for the device's own.
    """
    if device.type == "cpu":
        return _in_turns(steps, rounds)
    gpu = gpu or CudaGpu.of(device)
    return {name: time_on_gpu(step, gpu, rounds, graphs) for name, step in steps.items()}


def _in_turns(steps: dict[str, Step], rounds: int) -> dict[str, Timing]:
    peaks = {name: _peak_on_cpu(step) for name, step in steps.items()}  # which warms up
    seconds = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    return {name: Timing(statistics.median(found) * 1e3, peaks[name]) for name, found in seconds.items()}


def _peak_on_cpu(step: Step) -> float:
    """By the profiler's record of every allocation, in MiB."""
    recorded = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
    with _without_kineto_log():
        recorded.start()
    try:
        step()
    finally:
        with _without_kineto_log():
            recorded.stop()
    events = recorded.profiler.kineto_results.events()
    changes = [event.nbytes() for event in events if event.name() == "[memory]"]
    return max(accumulate(changes), default=0) / 2**20


@contextmanager
def _without_kineto_log() -> Iterator[None]:
    """Leaves out the lines that PyTorch's profiler writes to stderr whenever it starts or stops, `USDT: ...`.

    Whatever else is written meanwhile follows at the end. (KINETO_LOG_LEVEL would hide errors with them, and counts
    only if it is set before torch is imported.)
    """
    sys.stderr.flush()
    stderr = os.dup(STDERR)
    try:
        with tempfile.TemporaryFile() as log:
            os.dup2(log.fileno(), STDERR)
            try:
                yield
            finally:
                os.dup2(stderr, STDERR)
                log.seek(0)
                others = [line for line in log if not line.startswith(KINETO_NOTES)]
                os.write(STDERR, b"".join(others))
    finally:
        os.close(stderr)
