"""Time whole detectors side by side, the attentions beside their peers, and one detector over the size of its images.

python scripts/benchmark.py rows=[models]
python scripts/benchmark.py rows=[models] 'models.systems=["model=dino_4scale","model=lite_dino encoder=h2l2 a=2 b=3"]'
python scripts/benchmark.py rows=[kernels] kernels.scores=[deformable,key_aware] kernels.peers=[unfused]
python scripts/benchmark.py rows=[scale] 'scale.sides=[512,1024]' 'scale.objects=[]'
"""

import csv
import os
import platform
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Literal

import hydra
import torch
from flops import FlopsConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from litedetr.cli.compose import PAPER, as_mapping, overridden
from litedetr.cli.script import script
from litedetr.engine.distributed import choose_device
from litedetr.engine.run_config import Precision, beside_model, detector_config, require_image_size
from litedetr.kernels.bench.ceilings import Ceilings
from litedetr.kernels.bench.comparison import HEADER, Comparison, Row, choose_workloads, line, measure
from litedetr.kernels.bench.side_by_side import side_by_side
from litedetr.kernels.bench.timing import Step, Timing
from litedetr.kernels.bench.workloads import Regime
from litedetr.kernels.inputs import Score
from litedetr.models import DetectorConfig, level_shapes
from litedetr.paths import user_path
from litedetr.settings import ConfigError, from_mapping, require
from litedetr.tools.benchmark import (
    Contestant,
    ModelRow,
    ScaleConfig,
    ScaleRow,
    Setting,
    alone,
    draw_models,
    draw_scale,
    headline,
    model_table,
    of_checkpoint,
    of_config,
    peer,
    rows_of,
    scale_table,
)
from litedetr.tools.flops import Paper

MOST_THREADS = 1024
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class ModelsConfig:
    """The section `models` of conf/benchmark.yaml."""

    systems: tuple[str, ...]
    checkpoints: tuple[str, ...]
    peers: tuple[Literal["rt_detr", "deformable_detr"], ...]
    passes: tuple[Literal["forward", "training"], ...]
    batch_size: int
    precision: Precision
    num_classes: int
    num_objects: int

    def __post_init__(self) -> None:
        require(len(self.passes) > 0, "models.passes", "at least one", self.passes)


@dataclass(frozen=True)
class KernelsConfig:
    """The section `kernels` of conf/benchmark.yaml."""

    scores: tuple[Score, ...]
    queries: tuple[Literal["high", "low", "all", "decoder"], ...]
    regimes: tuple[Regime, ...]
    dtypes: tuple[Literal["float32", "float16", "bfloat16"], ...] | None
    passes: tuple[Literal["forward", "training"], ...]
    peers: tuple[Literal["reference", "compiled", "unfused", "deformops", "deformops_fp32"], ...]
    batch_size: int
    heads: int
    channels: int
    points: int

    def __post_init__(self) -> None:
        for name in ("scores", "queries", "regimes", "passes"):
            require(len(getattr(self, name)) > 0, f"kernels.{name}", "at least one", getattr(self, name))
        require(self.dtypes != (), "kernels.dtypes", "null or at least one", self.dtypes)
        for name in ("batch_size", "heads", "channels", "points"):
            require(getattr(self, name) >= 1, f"kernels.{name}", "at least 1", getattr(self, name))


@dataclass(frozen=True)
class BenchmarkConfig:
    """The settings of conf/benchmark.yaml."""

    rows: tuple[Literal["models", "kernels", "scale"], ...]
    image_size: tuple[int, int]
    device: Literal["auto", "cpu", "cuda"]
    rounds: int | None
    threads: int | None
    output: str
    models: ModelsConfig
    kernels: KernelsConfig
    scale: ScaleConfig

    def __post_init__(self) -> None:
        for name in ("rounds", "threads"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, "at least 1", value)
        few = self.threads is None or self.threads <= MOST_THREADS
        require(few, "threads", f"null or at most {MOST_THREADS}", self.threads)
        require(len(self.rows) > 0, "rows", "at least one", self.rows)
        require_image_size(self.image_size)


@dataclass(frozen=True)
class Machine:
    """What the figures hold for."""

    device: torch.device
    rounds: int  # turns on a CPU, milliseconds of each kind of timing on a GPU

    @property
    def facts(self) -> dict[str, str]:
        on_gpu = self.device.type == "cuda"
        threads = f"{platform.machine()}, {torch.get_num_threads()} threads"
        name = torch.cuda.get_device_name(self.device) if on_gpu else threads
        return {"device": name, "torch": torch.__version__, "python": platform.python_version()}

    def clock(self, steps: dict[str, Step], graphs: bool) -> dict[str, Timing]:
        """See litedetr.tools.benchmark.report.Clock."""
        return side_by_side(steps, self.device, self.rounds, graphs)

    def clock_alone(self, make_step: Callable[[], Step]) -> tuple[float, float | None]:
        """Median milliseconds of one step from the host, and its peak in MiB: on a CPU in a process of its own, whose
        memory is then the step's.
        """
        if self.device.type == "cpu":
            return alone(make_step, self.rounds, torch.get_num_threads())
        timing = self.clock({"step": make_step()}, graphs=False)["step"]
        return timing.eager_ms, timing.peak_mib


@script("benchmark")
def main(cfg: DictConfig) -> None:
    config = from_mapping(BenchmarkConfig, as_mapping(cfg))
    device = choose_device(config.device)
    torch.set_num_threads(config.threads or os.cpu_count())
    machine = Machine(device, config.rounds or (5 if device.type == "cpu" else 100))
    print(", ".join(f"{name} {value}" for name, value in machine.facts.items()))
    if "models" in config.rows:
        time_models(config, machine)
    if "kernels" in config.rows:
        time_kernels(config, machine)
    if "scale" in config.rows:
        time_scale(config, machine)


def time_models(config: BenchmarkConfig, machine: Machine) -> None:
    models = config.models
    setting = Setting(
        config.image_size, models.batch_size, models.num_classes, models.num_objects, models.precision, machine.device
    )
    rows = list(rows_of(contestants(models, setting), models.passes, setting, machine.clock))
    print(f"\n{model_table(rows)}\n", *headline(rows), sep="\n")
    folder = user_path(config.output)
    write(folder / "models.csv", rows, machine)
    picture = folder / "models.png"
    draw_models(rows, machine.facts["device"], picture)
    print(f"{picture}")


def contestants(models: ModelsConfig, setting: Setting) -> list[Contestant]:
    """Systems, checkpoints, peers. With checkpoints, only those systems that the command line names."""
    wanted = models.systems if not models.checkpoints or overridden("models.systems") else ()
    paper = Paper.from_settings(OmegaConf.to_container(OmegaConf.load(PAPER)))
    found = [of_system(text, paper, setting) for text in wanted]
    found += [of_checkpoint(path, setting) for path in models.checkpoints]
    found += [peer(name, setting) for name in models.peers]
    require(len(found) > 0, "models.systems", "at least one system, checkpoint or peer", models.systems)
    return found


def of_system(text: str, paper: Paper, setting: Setting) -> Contestant:
    """`text`: settings for conf/flops.yaml; a system of the paper's tables gets its name and AP."""
    row, config = paper.find(tuple(text.split())), composed(text, "models.systems")
    if row is None:
        return of_config(text, config, setting)
    return of_config(row.name, config, setting, row.ap, "the paper's, COCO val2017")


def composed(text: str, name: str) -> DetectorConfig:
    """The detector of settings for conf/flops.yaml, which the setting `name` gives; ConfigError for one that nothing
    reads.
    """
    try:
        settings = as_mapping(hydra.compose("flops", text.split()))
    except HydraException as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(f"{name}: expected settings for conf/flops.yaml, got {text!r}: {reason}") from None
    beside_model(settings, FlopsConfig)
    return detector_config(settings)


def time_kernels(config: BenchmarkConfig, machine: Machine) -> None:
    kernels, device = config.kernels, machine.device
    ceilings = Ceilings.of(device)
    print(f"\n{ceilings}\n\n{HEADER}")
    usual = ("float32",) if device.type == "cpu" else ("bfloat16", "float32")
    workloads = choose_workloads(
        tuple(DTYPES[name] for name in kernels.dtypes or usual),
        kernels.scores,
        kernels.queries,
        kernels.regimes,
        shapes=level_shapes(4, config.image_size),
        batch=kernels.batch_size,
        heads=kernels.heads,
        channels=kernels.channels,
        points=kernels.points,
    )
    rows = []
    for found in measure(workloads, Comparison(device, kernels.passes, kernels.peers, machine.rounds), ceilings):
        print(line(found) if isinstance(found, Row) else found, flush=True)
        if isinstance(found, Row):
            rows.append(found)
    write(user_path(config.output) / "kernels.csv", rows, machine)


def time_scale(config: BenchmarkConfig, machine: Machine) -> None:
    scale = config.scale
    detector = composed(scale.system, "scale.system")
    rows = []
    for point in scale.points:
        make_step = partial(point.step, detector, scale, machine.device)
        try:
            rows.append(ScaleRow.of(point, detector, scale, machine.clock_alone(make_step)))
            print(f"{point.run}, {point.side}x{point.side}, {point.num_objects} objects", flush=True)
        except (BrokenProcessPool, torch.OutOfMemoryError):
            print(f"{point}: out of memory, or killed", flush=True)
    require(len(rows) > 0, "scale.sides", "images that fit into the memory", scale.sides)
    print(f"\n{scale.system}\n{scale_table(rows)}")
    folder = user_path(config.output)
    write(folder / "scale.csv", rows, machine)
    print(draw_scale(rows, f"{scale.system}, {scale.precision}; {machine.facts['device']}", folder / "scale.png"))


def write(path: Path, rows: Sequence[Row] | Sequence[ModelRow] | Sequence[ScaleRow], machine: Machine) -> None:
    """Rows as CSV, each with what it was measured on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        kind = type(rows[0]) if rows else Row
        writer = csv.DictWriter(file, [*(field.name for field in fields(kind)), *machine.facts])
        writer.writeheader()
        writer.writerows(asdict(row) | machine.facts for row in rows)
    print(f"\n{path}")


if __name__ == "__main__":
    main()
