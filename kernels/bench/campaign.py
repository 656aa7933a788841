"""Tunes many calls within a time limit, the most valuable first. The best launch so far is always kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from triton.errors import TritonError

from litedetr.kernels.bench.compile_ahead import Ahead
from litedetr.kernels.bench.cuda_gpu import NotCapturedError
from litedetr.kernels.bench.jobs import Job, Untuned
from litedetr.kernels.bench.tuning import Timer, Trial, Tuned, tune
from litedetr.kernels.fused.launch import AnyLaunch, Shape


@dataclass(frozen=True)
class Campaign:
    """How jobs are tuned."""

    device: torch.device  # the GPU that is tuned
    time: Timer  # measures a launch whose results are right
    keep: Callable[[Tuned], object]  # is handed every result as soon as it is the best so far
    known: Mapping[Shape, AnyLaunch] = field(default_factory=dict)  # that were best before
    deadline: float = math.inf  # of time.monotonic
    ahead: Ahead | None = None  # of the same jobs in the same order

    def tune_all(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Trial | Tuned] | Untuned]:
        """Tune jobs in the given order. A job that fails yields an Untuned, and the next one is tuned."""
        for number, job in enumerate(jobs):
            if self._is_over():
                yield Untuned(job, "the time was up")
                continue
            try:
                yield from self._tune(number, job)
            except (RuntimeError, TritonError, NotCapturedError) as error:
                yield Untuned(job, str(error).strip().split("\n")[0])

    def _tune(self, number: int, job: Job) -> Iterator[tuple[Job, Trial | Tuned] | Untuned]:
        prepare = (lambda launches: self.ahead.prepare(number, launches)) if self.ahead else (lambda launches: {})
        known, tried = self.known.get(job.shape), 0
        for found in tune(job, self.device, self.time, prepare, known, self._is_over):
            if isinstance(found, Tuned):
                self.keep(found)
            tried += isinstance(found, Trial)
            yield job, found
        if self._is_over():
            yield Untuned(job, f"the time was up after {tried} launches")

    def _is_over(self) -> bool:
        return time.monotonic() >= self.deadline
