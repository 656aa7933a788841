"""Finds the fastest launch of a pass on the GPU that is here: check first, then time."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
import triton
from torch import Tensor
from triton.errors import TritonError

from litedetr.kernels.bench.accuracy import TOLERANCE, by_name, reference_results, worst_error
from litedetr.kernels.bench.cuda_gpu import CudaGpu
from litedetr.kernels.bench.jobs import Job
from litedetr.kernels.bench.resources import reason_of
from litedetr.kernels.bench.timing import warm_milliseconds
from litedetr.kernels.fused import launch
from litedetr.kernels.fused.backend import FusedBackend
from litedetr.kernels.fused.candidates import STAGES, candidates, variants
from litedetr.kernels.fused.launch import AnyLaunch, Pass, Shape, given, rule
from litedetr.kernels.inputs import Inputs, Saved

Timer = Callable[[Callable[[], object]], float]  # of a call, in milliseconds
Prepare = Callable[[Sequence[AnyLaunch]], Mapping[AnyLaunch, str]]  # before launches are tried: which to leave out, why

FINALISTS = 3
UNKNOWN = float("nan")


@dataclass(frozen=True)
class Trial:
    """One launch that was tried, or left out."""

    launch: AnyLaunch  # tried or left out
    error: float  # the largest relative RMS of its results; NaN if it did not run
    milliseconds: float | None  # None if it was wrong or did not run
    reason: str = ""  # why it did not run


@dataclass(frozen=True)
class Tuned:
    """The fastest launch of a shape so far, beside what the rule gives."""

    shape: Shape  # what the launch depends on
    best: Trial  # the fastest of those that are right
    by_rule: Trial  # the rule's launch


def replays(device: torch.device, repetitions: float) -> Timer:
    """Times a call by warm replays of a CUDA graph for about so many milliseconds, and gives the median.

    Raises NotCapturedError if no graph can hold it.
    """
    gpu = CudaGpu.of(device)
    return lambda call: warm_milliseconds(call, gpu, repetitions)


def tune(
    job: Job,
    device: torch.device,
    time: Timer,
    prepare: Prepare = lambda launches: {},
    known: AnyLaunch | None = None,
    over: Callable[[], bool] = lambda: False,
) -> Iterator[Trial | Tuned]:
    """Yields every trial, and behind each that is the fastest so far a Tuned: the last one is the result.

    prepare: is given launches before they are tried. known: the best one before; it is tried right behind the
    rule's, and no result comes before it. over: whether to try no more. Raises RuntimeError if not even the rule's
    launch is right.
    """
    shape, workload = job.shape, job.workload
    search = Search(shape, Check.of(job, device), time, prepare, over)
    first = list(dict.fromkeys([rule(shape), *([known] if known else []), *candidates(shape)]))
    yield from search.attempt(first, fewest=first.index(known) + 1 if known else 1)
    if over():
        return
    finalists = list(dict.fromkeys(replace(trial.launch, num_stages=None) for trial in search.fastest))[:FINALISTS]
    has_grid = job.pass_name != "segments" and workload.query_shapes is not None and workload.regime == "grid"
    yield from search.attempt(variants(finalists, search.stages, has_grid))


@dataclass
class Search:
    """The launches of a shape that were tried so far."""

    shape: Shape  # what the launches depend on
    check: Check  # runs a launch and compares its results
    time: Timer  # measures a launch whose results are right
    prepare: Prepare  # is given launches before they are tried
    over: Callable[[], bool]  # whether to try no more
    trials: list[Trial] = field(default_factory=list)  # the rule's first
    best: Trial | None = None  # of the last result

    def attempt(self, launches: Iterable[AnyLaunch], fewest: int = 1) -> Iterator[Trial | Tuned]:
        """Try launches that were not tried yet. fewest: trials before the first result."""
        tried = {trial.launch for trial in self.trials}
        launches = [item for item in launches if item not in tried]
        reasons = self.prepare(launches) if launches else {}
        for item in launches:
            if self.trials and self.over():
                return
            skipped = Trial(item, UNKNOWN, None, reasons[item]) if item in reasons else None
            self.trials.append(skipped or self.check.trial(item, self.time))
            yield self.trials[-1]
            by_rule = self.trials[0]
            if by_rule.milliseconds is None:
                failure = f"does not run: {by_rule.reason}" if by_rule.reason else f"errs by {by_rule.error:.1e}"
                raise RuntimeError(f"{self.shape}: the rule's launch {by_rule.launch} {failure}")
            fastest = self.fastest[0]
            if len(self.trials) >= fewest and fastest is not self.best:
                self.best = fastest
                yield Tuned(self.shape, fastest, by_rule)

    @property
    def fastest(self) -> list[Trial]:
        """The trials that were right, in the order of their times."""
        right = [trial for trial in self.trials if trial.milliseconds is not None]
        return sorted(right, key=lambda trial: trial.milliseconds)

    @property
    def stages(self) -> int | None:
        """The number of stages with which the rule's launch was fastest; None: its own."""
        staged = {replace(rule(self.shape), num_stages=stages): stages for stages in STAGES}
        faster = (trial for trial in self.fastest if trial.milliseconds < self.trials[0].milliseconds)
        return next((staged[trial.launch] for trial in faster if trial.launch in staged), None)


@dataclass(frozen=True)
class Check:
    """A pass with what it should give."""

    inputs: Inputs  # of the workload, on the device
    pass_name: Pass  # the pass that is checked
    saved: Saved  # of the forward pass with the rule's launch
    grad_out: Tensor  # (B, Q, M, D)
    expected: dict[str, Tensor]  # the reference's results by name: the output, or the gradients

    @classmethod
    def of(cls, job: Job, device: torch.device) -> Check:
        inputs = job.workload.inputs(device)
        saved = FusedBackend(given()).forward(inputs, deterministic=False)
        grad_out = torch.randn_like(saved.out)
        expected = reference_results(inputs, grad_out)
        if job.pass_name == "forward":
            expected = {"out": expected["out"]}
        else:
            del expected["out"]
        return cls(inputs, job.pass_name, saved, grad_out, expected)

    def trial(self, item: AnyLaunch, time: Timer) -> Trial:
        """Too little shared memory, or what Triton does not compile, is a reason; other exceptions are raised."""
        try:
            error = worst_error(self._results(item), self.expected)
        except TritonError as reason:
            return Trial(item, UNKNOWN, None, reason_of(reason))
        right = error < TOLERANCE[self.inputs.value.dtype]
        return Trial(item, error, time(lambda: self._results(item)) if right else None)

    def _results(self, item: AnyLaunch) -> dict[str, Tensor]:
        backend = FusedBackend(given(**{self.pass_name: item}))
        deterministic = self.pass_name == "segments"
        if self.pass_name == "forward":
            return {"out": backend.forward(self.inputs, deterministic).out}
        grads = backend.backward(self.inputs, self.saved, self.grad_out, deterministic, reference_grad=False)
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
