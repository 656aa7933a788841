"""Tune the kernels for the GPU that is here, for the attentions of the configured model.

python scripts/autotune.py
python scripts/autotune.py model=dino_4scale batch_size=4 dtypes=[bfloat16] budget_s=120
python scripts/autotune.py target=sm_90       # no GPU needed: compiles the candidates, shows registers and spills
"""

import math
import os
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path

import torch
from omegaconf import DictConfig
from tqdm import tqdm
from triton.runtime.driver import driver

from litedetr.cli.compose import as_mapping
from litedetr.cli.script import script
from litedetr.engine.run_config import beside_model, detector_config, require_image_size
from litedetr.kernels.bench.campaign import Campaign
from litedetr.kernels.bench.compile_ahead import Ahead, Compilers
from litedetr.kernels.bench.jobs import Job, Untuned
from litedetr.kernels.bench.resources import parse_target, resources
from litedetr.kernels.bench.tuning import AnyLaunch, Timer, Tuned, candidates, replays, save
from litedetr.kernels.bench.workloads import Workload
from litedetr.kernels.fused.launch import TUNED, Pass, file_name, rule, tuned
from litedetr.models import AttentionCall, DetectorConfig, attention_calls
from litedetr.paths import user_path
from litedetr.settings import require

MOST_WORKERS = 1024  # processes that compile
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class AutotuneConfig:
    """The settings of conf/autotune.yaml beside the model's."""

    image_size: tuple[int, int]
    batch_size: int
    dtypes: tuple[str, ...]
    passes: tuple[Pass, ...]
    repetitions_ms: int
    budget_s: float | None
    workers: int | None
    compile_s: float
    target: str | None
    output: str | None

    def __post_init__(self) -> None:
        require_image_size(self.image_size)
        require(self.batch_size >= 1, "batch_size", "at least 1", self.batch_size)
        require(self.repetitions_ms >= 1, "repetitions_ms", "at least 1", self.repetitions_ms)
        require(self.budget_s is None or self.budget_s > 0, "budget_s", "null or more than 0", self.budget_s)
        few = self.workers is None or 0 <= self.workers <= MOST_WORKERS
        require(few, "workers", f"null or an integer in 0..{MOST_WORKERS}", self.workers)
        require(self.compile_s > 0, "compile_s", "more than 0", self.compile_s)
        for name in ("dtypes", "passes"):
            require(len(getattr(self, name)) > 0, name, "at least one", getattr(self, name))
        for name in self.dtypes:
            require(name in DTYPES, "dtypes", f"some of {', '.join(DTYPES)}", name)


@script("autotune")
def main(cfg: DictConfig) -> None:
    settings = as_mapping(cfg)
    (config,) = beside_model(settings, AutotuneConfig)
    jobs = jobs_of(config, detector_config(settings))
    if config.target is not None:
        parse_target(config.target)
        compile_all(jobs, config.target)
    else:
        require_gpu()
        measure_all(jobs, config, current_gpu(config.repetitions_ms))


def jobs_of(config: AutotuneConfig, model: DetectorConfig) -> list[Job]:
    """One for each kind of call that the model makes, each precision and pass; the most valuable first."""

    def workload(call: AttentionCall, dtype: str) -> Workload:
        return Workload(
            call.kind,
            DTYPES[dtype],
            call.query_levels,
            call.num_queries,
            shapes=call.shapes,
            batch=config.batch_size,
            heads=model.attention.num_heads,
            channels=model.neck.channels // model.attention.num_heads,
            points=model.attention.num_points,
        )

    calls = Counter()
    for call, dtype in product(attention_calls(model, config.image_size), dict.fromkeys(config.dtypes)):
        calls[workload(call, dtype)] += call.count
    passes = dict.fromkeys(config.passes)
    jobs = [Job(found, pass_name, number) for (found, number), pass_name in product(calls.items(), passes)]
    return sorted(jobs, key=lambda job: job.rank)


def require_gpu() -> None:
    """Raises ValueError without one that Triton can use."""
    if not torch.cuda.is_available():
        raise ValueError(
            "autotune: expected a GPU that PyTorch can use (torch.cuda.is_available()), got none; "
            "target=sm_90 compiles the candidates without one"
        )


@dataclass(frozen=True)
class Gpu:
    """What is tuned for."""

    name: str
    device: torch.device
    timer: Timer


def current_gpu(repetitions_ms: int) -> Gpu:
    device = torch.device("cuda", torch.cuda.current_device())
    return Gpu(torch.cuda.get_device_name(device), device, replays(device, repetitions_ms))


def measure_all(jobs: list[Job], config: AutotuneConfig, gpu: Gpu) -> None:
    """Every launch that is the best so far is saved at once, so that an interrupted run keeps what it has measured."""
    folder = config.output and user_path(config.output)
    deadline = math.inf if config.budget_s is None else time.monotonic() + config.budget_s
    results: dict[Job, Tuned] = {}
    with ExitStack() as stack:
        ahead = compile_ahead(jobs, config, deadline, stack)
        known = tuned(gpu.name, folder)
        campaign = Campaign(gpu.device, gpu.timer, partial(keep, gpu.name, folder), known, deadline, ahead)
        bar = stack.enter_context(tqdm(unit=" launches", disable=None))
        for outcome in campaign.tune_all(jobs):
            if isinstance(outcome, Untuned):
                tqdm.write(f"{describe(outcome.job)}: {outcome.reason}")
                continue
            job, found = outcome
            bar.set_description(f"{jobs.index(job) + 1}/{len(jobs)} {describe(job)}", refresh=False)
            if isinstance(found, Tuned):
                results[job] = found
            else:
                bar.update()
                if found.reason:
                    tqdm.write(f"{describe(job)}: {short(found.launch)}: left out, {found.reason}")
    print(table(results), f"\n{(folder or TUNED) / file_name(gpu.name)}", sep="\n")


def compile_ahead(jobs: list[Job], config: AutotuneConfig, deadline: float, stack: ExitStack) -> Ahead | None:
    """Processes that compile while this one measures; None for none."""
    workers = min(max(1, (os.cpu_count() or 2) - 1), MOST_WORKERS) if config.workers is None else config.workers
    if workers == 0:
        return None
    target = driver.active.get_current_target()
    compilers = stack.enter_context(Compilers(target, workers, config.compile_s))
    return Ahead(compilers, jobs, deadline)


def keep(gpu: str, folder: Path | None, found: Tuned) -> None:
    save([found], gpu, folder)


def describe(job: Job) -> str:
    work = job.workload
    dtype = str(work.dtype).removeprefix("torch.")
    return f"{job.pass_name} {work.score} {dtype} B {work.batch} Q {work.queries} S {work.tokens}"


def table(results: dict[Job, Tuned]) -> str:
    """Before is the rule's launch, after the fastest."""
    lines = [f"{'':58}{'before':>10}{'after':>10}{'ratio':>7}  launch"]
    for job, found in results.items():
        before, after = found.by_rule.milliseconds, found.best.milliseconds
        row = f"{describe(job):58}{before:7.3f} ms{after:7.3f} ms{before / after:7.2f}  {short(found.best.launch)}"
        lines.append(row)
    return "\n".join(lines)


def short(launch: AnyLaunch) -> str:
    """Its settings without those that are left to Triton."""
    return ", ".join(f"{name} {value}" for name, value in asdict(launch).items() if value is not None)


def compile_all(jobs: list[Job], target: str) -> None:
    """A table of what each candidate needs on `target`; the rule's own launch comes first."""
    for job in jobs:
        print(f"\n{describe(job)} on {target}")
        for launch in tqdm(candidates(job.shape), unit=" launches", leave=False, disable=None):
            for found in resources(job, launch, target):
                fits = "spills" if found.spilled else ""
                chosen = "rule" if launch == rule(job.shape) else ""
                registers = f"{found.registers:4} registers {found.spilled:5} bytes spilled"
                tqdm.write(f"  {short(launch):60}{registers}  {fits or chosen}")


if __name__ == "__main__":
    main()
