"""Rows of a table of instructions: our kernels, launched by the rule, beside those of other libraries."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any

import triton
from triton.errors import TritonError

from litedetr.kernels.bench.counts import Counted, count_job, count_program, num_samples
from litedetr.kernels.bench.instructions import NotCounted
from litedetr.kernels.bench.jobs import Job, launch_text
from litedetr.kernels.bench.peer_kernels import PEER_KERNELS
from litedetr.kernels.bench.resources import Compiler, compiling_for, parse_target, reason_of
from litedetr.kernels.fused.launch import rule


@dataclass(frozen=True)
class Row:
    """A kernel; figures from `fma` to `other` are its warp instructions for each sample (disassembly.PIPES)."""

    who: str  # whose kernels: ours or a peer's
    pass_name: str  # of launch.Pass
    score: str  # of inputs.Score
    dtype: str  # of the values
    queries: int  # of an image
    target: str  # `sm_90`, `gfx942` and the like
    triton: str  # the version that compiled it
    total: float  # of the figures that follow
    fma: float
    alu: float
    xu: float
    loads: float
    stores: float
    atomics: float
    shared: float
    shuffles: float
    sync: float
    other: float
    registers: int  # of a thread
    warps: int | None  # that a multiprocessor holds at a time
    spilled: int  # bytes of a thread
    note: str  # our launch; what a peer does not do

    @classmethod
    def of(cls, who: str, job: Job, target: str, counted: Counted, note: str) -> Row:
        needs, pipes = counted.resources, {pipe: round(number, 2) for pipe, number in counted.pipes.items()}
        work = job.workload
        what = (job.pass_name, work.score, str(work.dtype).removeprefix("torch."), work.queries)
        total = round(counted.total, 2)
        return cls(
            who, *what, target, triton.__version__, total, **pipes,
            registers=needs.registers, warps=needs.warps, spilled=needs.spilled, note=note,
        )  # fmt: skip

    @classmethod
    def of_record(cls, record: Mapping[str, str]) -> Row:
        """From a line of a file."""
        kinds: dict[str, Callable[[str], Any]] = {"str": str, "float": float, "int": int, "int | None": _int_or_none}
        return cls(**{field.name: kinds[field.type](record[field.name]) for field in fields(cls)})

    @property
    def key(self) -> tuple[object, ...]:
        """What a later count replaces."""
        return self.who, self.pass_name, self.score, self.dtype, self.queries, self.target, self.triton


def _int_or_none(text: str) -> int | None:
    return int(text) if text else None


@dataclass(frozen=True)
class Counting:
    """What is counted."""

    target: str  # `sm_90`, `gfx942` and the like
    name: str  # what to call our kernels
    peers: Sequence[str]  # of PEER_KERNELS
    sources: Path | None  # the folder with the sources of those that are not installed

    def rows(self, jobs: Sequence[Job]) -> Iterator[Row | str]:
        """A row for each job, of ours and of each peer that takes it; a line of text for what is not counted."""
        modules = {}
        for peer in self.peers:
            try:
                with compiling_for(parse_target(self.target)):
                    modules[peer] = PEER_KERNELS[peer].load(peer, self.sources)
            except FileNotFoundError as error:
                yield str(error)
        for job in jobs:
            yield self._of_ours(job)
            for peer, module in modules.items():
                taken = PEER_KERNELS[peer].takes(job)
                if taken is not None:
                    yield self._of_peer(peer, module, taken)

    def _of_ours(self, job: Job) -> Row | str:
        launch = rule(job.shape)
        try:
            counted = count_job(job, launch, self.target)
        except (NotCounted, TritonError) as error:
            return _not_counted(self.name, job, error)
        return Row.of(self.name, job, self.target, counted, launch_text(launch))

    def _of_peer(self, name: str, module: ModuleType, job: Job) -> Row | str:
        kernels, compiler = PEER_KERNELS[name], Compiler(parse_target(self.target))
        try:
            with compiling_for(compiler.target):
                kernels.launch(module, job.workload, job.pass_name, compiler)
            (program,) = compiler.programs
            counted = count_program(program, kernels.trips(job.workload), num_samples(job))
        except Exception as error:  # whatever Triton and a peer's code raise
            return _not_counted(name, job, error)
        return Row.of(name, job, self.target, counted, kernels.note)


def _not_counted(who: str, job: Job, error: BaseException) -> str:
    work = job.workload
    dtype = str(work.dtype).removeprefix("torch.")
    return f"{who}, {job.pass_name} {work.score} {dtype}: not counted, {reason_of(error)}"
