"""The kernels' launches for the attentions of a detector: measured on the GPU that is here, or compiled for any."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Literal

import torch
from pydantic import Field
from tqdm import tqdm
from triton.errors import TritonError
from triton.runtime.driver import driver

from litedetr.engine.run_config import ImageSize
from litedetr.kernels.bench.campaign import Campaign
from litedetr.kernels.bench.compile_ahead import Ahead, Compilers
from litedetr.kernels.bench.counts import count_programs
from litedetr.kernels.bench.instructions import NotCounted
from litedetr.kernels.bench.jobs import Job, Untuned, launch_text
from litedetr.kernels.bench.resources import Program, compile_job, most_needed, parse_target, reason_of
from litedetr.kernels.bench.tuning import Timer, Tuned, replays, save
from litedetr.kernels.bench.workloads import Workload
from litedetr.kernels.fused.candidates import candidates
from litedetr.kernels.fused.launch import TUNED, AnyLaunch, Pass, file_name, rule, tuned
from litedetr.models import DetectorConfig, attention_calls
from litedetr.paths import user_path
from litedetr.settings import Count, Integer, Maybe, Number, Some, Text, settings
from litedetr.tools.tables import text_table

MOST_WORKERS = 1024  # processes that compile


@settings()
class AutotuneConfig:
    """The settings of conf/autotune.yaml beside the model's."""

    image_size: ImageSize
    batch_size: Count
    dtypes: Some[Literal["float32", "float16", "bfloat16"]]
    passes: Some[Pass]
    repetitions_ms: Count
    budget_s: Maybe[Annotated[Number, Field(gt=0)]]
    workers: Maybe[Annotated[Integer, Field(ge=0, le=MOST_WORKERS)]]
    compile_s: Annotated[Number, Field(gt=0)]
    target: Maybe[Text]
    output: Maybe[Text]


def jobs_of(config: AutotuneConfig, model: DetectorConfig) -> list[Job]:
    """One for each kind of call that the model makes, each precision and pass; the most valuable first."""
    heads = model.attention.num_heads
    sizes = {"heads": heads, "channels": model.neck.channels // heads, "points": model.attention.num_points}
    sizes |= {"batch": config.batch_size}
    calls: Counter[Workload] = Counter()
    for call, dtype in product(attention_calls(model, config.image_size), dict.fromkeys(config.dtypes)):
        queries = {"query_levels": call.query_levels, "num_queries": call.num_queries, "shapes": call.shapes}
        calls[Workload(call.kind, getattr(torch, dtype), **queries, **sizes)] += call.count
    passes = dict.fromkeys(config.passes)
    jobs = [Job(found, pass_name, number) for (found, number), pass_name in product(calls.items(), passes)]
    return sorted(jobs, key=lambda job: job.rank)


@dataclass(frozen=True)
class Gpu:
    """What is tuned for."""

    name: str
    device: torch.device
    timer: Timer

    @classmethod
    def current(cls, repetitions_ms: int) -> Gpu:
        """Raises ValueError without one that Triton can use."""
        if not torch.cuda.is_available():
            raise ValueError(
                "autotune: expected a GPU that PyTorch can use (torch.cuda.is_available()), got none; "
                "target=sm_90 compiles the candidates without one"
            )
        device = torch.device("cuda", torch.cuda.current_device())
        return cls(torch.cuda.get_device_name(device), device, replays(device, repetitions_ms))


def measure_all(jobs: list[Job], config: AutotuneConfig, gpu: Gpu) -> Iterator[str]:
    """What to print at the end. Every launch that is the fastest so far is saved at once, so that what was measured is
    kept after an interrupt.
    """
    folder = config.output and user_path(config.output)
    deadline = math.inf if config.budget_s is None else time.monotonic() + config.budget_s
    results: dict[Job, Tuned] = {}
    with ExitStack() as stack:
        ahead = compile_ahead(jobs, config, deadline, stack)
        campaign = Campaign(
            gpu.device,
            gpu.timer,
            lambda found: save([found], gpu.name, folder),
            tuned(gpu.name, folder),
            deadline,
            ahead,
        )
        bar = stack.enter_context(tqdm(unit=" launches", disable=None))
        for outcome in campaign.tune_all(jobs):
            if isinstance(outcome, Untuned):
                tqdm.write(f"{_describe(outcome.job)}: {outcome.reason}")
                continue
            job, found = outcome
            bar.set_description(f"{jobs.index(job) + 1}/{len(jobs)} {_describe(job)}", refresh=False)
            if isinstance(found, Tuned):
                results[job] = found
            else:
                bar.update()
                if found.reason:
                    tqdm.write(f"{_describe(job)}: {launch_text(found.launch)}: left out, {found.reason}")
    yield _table(results)
    yield str((folder or TUNED) / file_name(gpu.name))


def compile_ahead(jobs: list[Job], config: AutotuneConfig, deadline: float, stack: ExitStack) -> Ahead | None:
    """Processes that compile while this one measures; None for none."""
    workers = min(max(1, (os.cpu_count() or 2) - 1), MOST_WORKERS) if config.workers is None else config.workers
    if workers == 0:
        return None
    target = driver.active.get_current_target()
    compilers = stack.enter_context(Compilers(target, workers, config.compile_s))
    return Ahead(compilers, jobs, deadline)


def _describe(job: Job) -> str:
    work = job.workload
    dtype = str(work.dtype).removeprefix("torch.")
    return f"{job.pass_name} {work.score} {dtype} B {work.batch} Q {work.queries} S {work.tokens}"


def _table(results: dict[Job, Tuned]) -> str:
    """Before is the rule's launch, after the fastest."""
    columns = [("", "<58"), ("before", ">10"), ("after", ">10"), ("ratio", ">7.2f"), ("  launch", "")]
    times = {job: (found.by_rule.milliseconds, found.best.milliseconds) for job, found in results.items()}
    lines = [
        (
            _describe(job),
            f"{before:.3f} ms",
            f"{after:.3f} ms",
            before / after,
            f"  {launch_text(results[job].best.launch)}",
        )
        for job, (before, after) in times.items()
    ]
    return text_table(columns, lines)


def compile_all(jobs: list[Job], target: str) -> Iterator[str]:
    """What to print: what each candidate needs on `target` and executes; the rule's own launch comes first."""
    parse_target(target)
    for job in jobs:
        yield f"\n{_describe(job)} on {target}"
        for launch in tqdm(candidates(job.shape), unit=" launches", leave=False, disable=None):
            try:
                yield _compiled(job, launch, compile_job(job, launch, target))
            except TritonError as error:
                yield f"  {launch_text(launch):60}does not compile: {reason_of(error)}"


def _compiled(job: Job, launch: AnyLaunch, programs: list[Program]) -> str:
    """A line of a compiled candidate."""
    found = most_needed([program.resources for program in programs])
    remark = "spills" if found.spilled else "rule" if launch == rule(job.shape) else ""
    warps = "-" if found.warps is None else found.warps
    needs = f"{found.registers:4} registers {found.spilled:5} bytes spilled {warps:>3} warps"
    return f"  {launch_text(launch):60}{needs}  {remark:6}  {_executed(job, launch, programs)}".rstrip()


def _executed(job: Job, launch: AnyLaunch, programs: list[Program]) -> str:
    try:
        return str(count_programs(programs, job, launch))
    except NotCounted as error:
        return f"not counted: {error}"
