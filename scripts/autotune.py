"""Tune the kernels for the GPU that is here, for the attentions of the configured model.

python scripts/autotune.py
python scripts/autotune.py model=dino_4scale batch_size=4 dtypes=[bfloat16]
python scripts/autotune.py target=sm_90       # no GPU needed: compiles the candidates, shows registers and spills
"""

from dataclasses import dataclass
from itertools import product

from _common import as_mapping
from _script import script

import torch
from omegaconf import DictConfig
from tqdm import tqdm

from kernels.fused.launch import Launch, Pass, Shape, rule
from kernels.fused.resources import parse_target, resources
from kernels.fused.tuning import Trial, Tuned, candidates, milliseconds, save, tune
from kernels.workloads import Workload
from litedetr.config import require
from litedetr.engine import beside_model, detector_config, require_image_size
from litedetr.models import AttentionCall, DetectorConfig, attention_calls
from litedetr.paths import user_path

SCORES = {"deformable": "logits", "key_aware": "own", "key_aware_shared": "shared"}
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class AutotuneConfig:
    """The settings of conf/autotune.yaml beside the model's."""

    image_size: tuple[int, int]
    batch_size: int
    dtypes: tuple[str, ...]
    passes: tuple[Pass, ...]
    repetitions_ms: int
    target: str | None
    output: str | None

    def __post_init__(self) -> None:
        require_image_size(self.image_size)
        require(self.batch_size >= 1, "batch_size", "at least 1", self.batch_size)
        require(self.repetitions_ms >= 1, "repetitions_ms", "at least 1", self.repetitions_ms)
        for name in ("dtypes", "passes"):
            require(len(getattr(self, name)) > 0, name, "at least one", getattr(self, name))
        for name in self.dtypes:
            require(name in DTYPES, "dtypes", f"some of {', '.join(DTYPES)}", name)


@script("autotune")
def main(cfg: DictConfig) -> None:
    settings = as_mapping(cfg)
    (config,) = beside_model(settings, AutotuneConfig)
    jobs = list(product(workloads(config, detector_config(settings)), config.passes))
    if config.target is not None:
        parse_target(config.target)
        compile_all(jobs, config.target)
    else:
        require_gpu()
        measure_all(jobs, config)


def workloads(config: AutotuneConfig, model: DetectorConfig) -> list[Workload]:
    """One for each kind of call that the model makes, and each precision."""

    def workload(call: AttentionCall, dtype: str) -> Workload:
        return Workload(
            SCORES[call.kind],
            DTYPES[dtype],
            call.query_levels,
            call.num_queries,
            shapes=call.shapes,
            batch=config.batch_size,
            heads=model.attention.num_heads,
            channels=model.neck.channels // model.attention.num_heads,
            points=model.attention.num_points,
        )

    calls = attention_calls(model, config.image_size)
    return list(dict.fromkeys(workload(call, dtype) for dtype, call in product(config.dtypes, calls)))


def require_gpu() -> None:
    """Raises ValueError without one that Triton can use."""
    if not torch.cuda.is_available():
        raise ValueError(
            "autotune: expected a GPU that PyTorch can use (torch.cuda.is_available()), got none; "
            "target=sm_90 compiles the candidates without one"
        )


def measure_all(jobs: list[tuple[Workload, Pass]], config: AutotuneConfig) -> None:
    """Every result is saved at once, so that an interrupted run keeps what it has measured."""
    device = torch.device("cuda", torch.cuda.current_device())
    gpu, results, folder = torch.cuda.get_device_name(device), [], config.output and user_path(config.output)
    timer = milliseconds(config.repetitions_ms)
    for number, (workload, run) in enumerate(jobs, start=1):
        label = f"{number}/{len(jobs)} {describe(workload, run)}"
        with tqdm(desc=label, unit=" launches", disable=None) as bar:
            for outcome in tune(workload, run, device, timer):
                if isinstance(outcome, Trial):
                    bar.update()
                else:
                    results.append((label, outcome))
        path = save([results[-1][1]], gpu, folder)
    print(table(results), f"\n{path}", sep="\n")


def describe(workload: Workload, run: Pass) -> str:
    dtype = str(workload.dtype).removeprefix("torch.")
    return f"{run} {workload.score} {dtype} B {workload.batch} Q {workload.queries} S {workload.tokens}"


def table(results: list[tuple[str, Tuned]]) -> str:
    """Before is the rule's launch, after the fastest."""
    lines = [f"{'':58}{'before':>10}{'after':>10}{'ratio':>7}  launch"]
    for label, tuned in results:
        before, after = tuned.by_rule.milliseconds, tuned.best.milliseconds
        row = f"{label:58}{before:7.3f} ms{after:7.3f} ms{before / after:7.2f}  {short(tuned.best.launch)}"
        lines.append(row)
    return "\n".join(lines)


def short(launch: Launch) -> str:
    return f"{launch.tile[0]}x{launch.tile[1]} queries, {launch.num_warps} warps"


def compile_all(jobs: list[tuple[Workload, Pass]], target: str) -> None:
    """A table of what each candidate needs on `target`; the rule's own launch comes first."""
    for workload, run in jobs:
        print(f"\n{describe(workload, run)} on {target}")
        shape = Shape.of(run, workload.inputs("meta"))
        for launch in tqdm(candidates(shape), unit=" launches", leave=False, disable=None):
            for found in resources(workload, run, launch, target):
                fits = "spills" if found.spilled else ""
                chosen = "rule" if launch == rule(shape) else ""
                registers = f"{found.registers:4} registers {found.spilled:5} bytes spilled"
                tqdm.write(f"  {short(launch):28}{registers}  {fits or chosen}")


if __name__ == "__main__":
    main()
