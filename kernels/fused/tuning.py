"""Finds the fastest launch of a pass on the GPU that is here: check first, then time."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import triton
from torch import Tensor

from kernels.check import TOLERANCE, by_name, reference_results, worst_error
from kernels.fused import backend, launch
from kernels.fused.launch import Launch, Pass, Shape, rule
from kernels.inputs import Inputs, Saved
from kernels.workloads import Workload

Timer = Callable[[Callable[[], object]], float]  # of a call, in milliseconds

FEWEST_ELEMENTS, MOST_ELEMENTS = 2, 32  # a thread
RASTER_FINALISTS = 3


@dataclass(frozen=True)
class Trial:
    """One launch: the largest relative RMS error of its results, and its time, None if it was not right."""

    launch: Launch
    error: float
    milliseconds: float | None


@dataclass(frozen=True)
class Tuned:
    """The fastest launch of a shape, beside what the rule gives."""

    shape: Shape
    best: Trial
    by_rule: Trial


def milliseconds(repetitions: int) -> Timer:
    """Times a call for about so many milliseconds and gives the median."""
    return lambda call: triton.testing.do_bench(call, rep=repetitions, return_mode="median")


def candidates(shape: Shape) -> list[Launch]:
    """Launches in raster order with a plausible number of elements for each thread; the rule's is the first."""
    per_query = triton.next_power_of_2(shape.points) * triton.next_power_of_2(shape.channels)
    found = [rule(shape)]
    for warps in (1, 2, 4, 8, 16):
        for block in (1, 2, 4, 8, 16, 32, 64, 128):
            elements = block * per_query / (warps * launch.THREADS_PER_WARP)
            if FEWEST_ELEMENTS <= elements <= MOST_ELEMENTS:
                found.append(Launch(block, warps))
    return list(dict.fromkeys(found))


def tiled(best: Iterable[Launch]) -> list[Launch]:
    """The same launches over tiles of the query grid."""
    return [
        replace(item, tile_height=height) for item in best for height in (2, 4, 8, 16) if height < item.block_queries
    ]


def tune(workload: Workload, run: Pass, device: torch.device, time: Timer) -> Iterator[Trial | Tuned]:
    """Yields every trial, and last the result. Raises RuntimeError where not even the rule's launch is right."""
    inputs = workload.inputs(device)
    shape = Shape.of(run, inputs)
    check = Check.of(inputs, run)
    trials: list[Trial] = []

    def attempt(launches: Iterable[Launch]) -> Iterator[Trial]:
        for item in launches:
            trials.append(check.trial(item, time))
            yield trials[-1]

    yield from attempt(candidates(shape))
    if trials[0].milliseconds is None:
        raise RuntimeError(f"{shape}: the rule's launch {trials[0].launch} errs by {trials[0].error:.1e}")
    if workload.query_shapes is not None and workload.regime == "grid":
        fastest = sorted((t for t in trials if t.milliseconds is not None), key=lambda t: t.milliseconds)
        yield from attempt(tiled(t.launch for t in fastest[:RASTER_FINALISTS]))
    right = [trial for trial in trials if trial.milliseconds is not None]
    yield Tuned(shape, min(right, key=lambda t: t.milliseconds), trials[0])


@dataclass(frozen=True)
class Check:
    """A pass with what it should give."""

    inputs: Inputs
    run: Pass
    saved: Saved
    grad_out: Tensor
    expected: dict[str, Tensor]

    @classmethod
    def of(cls, inputs: Inputs, run: Pass) -> Check:
        saved = backend.forward(inputs, rule(Shape.of("forward", inputs)))
        grad_out = torch.randn_like(saved.out)
        expected = reference_results(inputs, grad_out)
        if run == "forward":
            expected = {"out": expected["out"]}
        else:
            del expected["out"]
        return cls(inputs, run, saved, grad_out, expected)

    def trial(self, launch: Launch, time: Timer) -> Trial:
        error = worst_error(self._results(launch), self.expected)
        right = error < TOLERANCE[self.inputs.value.dtype]
        return Trial(launch, error, time(lambda: self._results(launch)) if right else None)

    def _results(self, launch: Launch) -> dict[str, Tensor]:
        if self.run == "forward":
            return {"out": backend.forward(self.inputs, launch).out}
        grads = backend.backward(self.inputs, self.saved, self.grad_out, launch, False, False)
        return by_name(grads.tensors)


def save(results: Iterable[Tuned], gpu: str, folder: Path | None = None) -> Path:
    """Write the launches of a GPU, whole or not at all; those of other shapes and the same Triton version stay."""
    path = (folder or launch.TUNED) / launch.file_name(gpu)
    entries = launch.read_entries(path)
    for result in results:
        entries[result.shape] = {
            "shape": asdict(result.shape),
            "launch": asdict(result.best.launch),
            "milliseconds": result.best.milliseconds,
            "rule_milliseconds": result.by_rule.milliseconds,
        }
    content = {"gpu": gpu, "triton": triton.__version__, "torch": torch.__version__, "entries": list(entries.values())}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)
    launch.tuned.cache_clear()
    return path
