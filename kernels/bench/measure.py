"""Times of a call side by side with its peers in one process, beside what the machine's memory allows."""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from litedetr.kernels.bench.accuracy import by_name
from litedetr.kernels.bench.peers import Attend
from litedetr.kernels.bench.replay import CudaGpu
from litedetr.kernels.bench.timing import Gpu, Step, Timing, time_on_gpu
from litedetr.kernels.inputs import Inputs

COPY_BYTES = 1 << 28
PRODUCT_SIDE = {"cpu": 1024, "cuda": 8192}  # of square matrices
PRODUCTS = {"bf16": (torch.bfloat16, "highest"), "tf32": (torch.float32, "high"), "fp32": (torch.float32, "highest")}
STDERR = 2  # the file descriptor, which C++ writes to
KINETO_NOTES = (b"USDT:", b"STAGE:")
L1_BYTES_PER_CLOCK = 128  # of one multiprocessor


def forward_step(attend: Attend, inputs: Inputs) -> Step:
    """The forward pass alone, without autograd."""

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
    steps: dict[str, Step], device: torch.device, rounds: int, graphs: bool = True, gpu: Gpu | None = None
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


@dataclass(frozen=True)
class Ceilings:
    """What the machine reaches in calls that do nothing else."""

    bandwidth: float  # bytes a second of a large copy, reads and writes counted
    l1: float | None  # bytes a second of all first-level caches, if known
    products: dict[str, float] = field(default_factory=dict)  # FLOP/s of a large matrix product by precision

    @classmethod
    def of(cls, device: torch.device) -> Ceilings:
        """Measured by a copy and by products; the rate of the caches is computed from clock and multiprocessors."""
        source = torch.randn(COPY_BYTES // 4, device=device)
        target = torch.empty_like(source)
        rounds = 5 if device.type == "cpu" else 100
        copied = side_by_side({"copy": lambda: target.copy_(source)}, device, rounds)
        bandwidth = 2 * COPY_BYTES / (copied["copy"].milliseconds * 1e-3)
        products = _products(device, rounds)
        if device.type == "cpu":
            return cls(bandwidth, None, products)
        properties = torch.cuda.get_device_properties(device)
        kilohertz = getattr(properties, "clock_rate", None)
        multiprocessors = properties.multi_processor_count
        l1 = kilohertz and kilohertz * 1e3 * multiprocessors * L1_BYTES_PER_CLOCK
        return cls(bandwidth, l1, products)

    def __str__(self) -> str:
        products = (f"{name} products {rate / 1e12:.3g} TFLOP/s" for name, rate in self.products.items())
        return ", ".join([f"copy bandwidth {self.bandwidth / 1e9:.0f} GB/s", *products])


def _products(device: torch.device, rounds: int) -> dict[str, float]:
    """FLOP/s by precision; a CPU's in fp32 only, since it may lack the others."""
    side = PRODUCT_SIDE[device.type]
    names = ("fp32",) if device.type == "cpu" else tuple(PRODUCTS)
    found, before = {}, torch.get_float32_matmul_precision()
    for name in names:
        dtype, precision = PRODUCTS[name]
        left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        out = torch.empty_like(left)
        torch.set_float32_matmul_precision(precision)
        try:
            timing = side_by_side({"product": lambda a=left, b=right, c=out: torch.mm(a, b, out=c)}, device, rounds)
        finally:
            torch.set_float32_matmul_precision(before)
        found[name] = 2 * side**3 / (timing["product"].milliseconds * 1e-3)
    return found


def floor_milliseconds(inputs: Inputs, training: bool, ceilings: Ceilings) -> float:
    """The least time that moving the bytes takes; arithmetic and atomics come on top.

    From memory every tensor is read or written once, and once more each way for its gradient, tables in fp32; through
    the first-level caches go four pixels a sample and table, in the backward pass a second time.
    """
    tables = [x for x in (inputs.key, inputs.value) if x is not None]
    others = [x for x in inputs.tensors if x is not None and all(x is not table for table in tables)]
    out = inputs.points.offsets[..., 0, 0, 0].numel() * inputs.value.shape[-1] * inputs.value.element_size()
    moved = sum(x.nbytes for x in (*tables, *others)) + out
    corners = 4 * inputs.points.offsets.numel() // 2
    gathered = corners * sum(table.shape[-1] * table.element_size() for table in tables)
    if training:
        moved = 2 * moved + moved + sum(2 * 4 * table.numel() for table in tables)
        gathered *= 2
    through_l1 = gathered / ceilings.l1 if ceilings.l1 else 0.0
    return max(moved / ceilings.bandwidth, through_l1) * 1e3
