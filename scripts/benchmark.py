"""Time the attentions beside their peers, on the device that is here.

python scripts/benchmark.py
python scripts/benchmark.py scores=[logits,shared,own] queries=[high,all] peers=[unfused]
"""

import csv
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Literal

import hydra
import torch
from _common import CONFIG_FOLDER, as_mapping, clear_errors
from omegaconf import DictConfig

from kernels.check import PEER_TOLERANCE, TOLERANCE, reference_results, worst_error
from kernels.inputs import Score
from kernels.interface import attend
from kernels.measure import Ceilings, floor_milliseconds, forward_step, side_by_side, training_step
from kernels.peers import PEERS, obstacle
from kernels.workloads import Regime, Workload
from litedetr.config import from_mapping, require
from litedetr.models import level_shapes

OURS = "ours"
LEVELS = {"high": (1, 4), "low": (0, 1), "all": (0, 4), "decoder": None}
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class BenchmarkConfig:
    """The settings of conf/benchmark.yaml."""

    scores: tuple[Score, ...]
    queries: tuple[Literal["high", "low", "all", "decoder"], ...]
    regimes: tuple[Regime, ...]
    dtypes: tuple[Literal["float32", "float16", "bfloat16"], ...] | None
    passes: tuple[Literal["forward", "training"], ...]
    peers: tuple[Literal["reference", "compiled", "unfused", "deformops"], ...]
    image_size: tuple[int, int]
    batch_size: int
    heads: int
    channels: int
    points: int
    device: Literal["auto", "cpu", "cuda"]
    rounds: int | None
    threads: int | None
    output: str

    def __post_init__(self) -> None:
        for name in ("batch_size", "heads", "channels", "points", "rounds", "threads"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, "at least 1", value)
        require(min(self.image_size) >= 1, "image_size", "[height, width] of at least 1", self.image_size)
        has_gpu = torch.cuda.is_available()
        require(self.device != "cuda" or has_gpu, "device", "a GPU for cuda, or cpu", self.device)


@dataclass(frozen=True)
class Row:
    """One measurement. ratio: the peer's time over ours. limit_ms: what moving the bytes takes at least."""

    score: str
    queries: str
    regime: str
    dtype: str
    run: str
    name: str
    milliseconds: float
    ratio: float
    limit_ms: float
    peak_mib: float | None
    error: float


@hydra.main(version_base=None, config_path=CONFIG_FOLDER, config_name="benchmark")
@clear_errors
def main(cfg: DictConfig) -> None:
    config = from_mapping(BenchmarkConfig, as_mapping(cfg))
    device = torch.device("cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu")
    torch.set_num_threads(config.threads or os.cpu_count())
    machine = describe(device)
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    ceilings = Ceilings.of(device)
    print(f"copy bandwidth {ceilings.bandwidth / 1e9:.0f} GB/s\n\n{HEADER}")
    rows = []
    for label, workload in workloads(config, device):
        for row in measure(label, workload, config, device, ceilings):
            print(line(row), flush=True)
            rows.append(row)
    write(Path(config.output), rows, machine)
    print(f"\n{config.output}")


def describe(device: torch.device) -> dict[str, str]:
    """What the figures hold for."""
    on_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_gpu else f"{platform.machine()}, {torch.get_num_threads()} threads"
    return {"device": name, "torch": torch.__version__, "python": platform.python_version()}


def workloads(config: BenchmarkConfig, device: torch.device) -> Iterator[tuple[str, Workload]]:
    """With the name of the queries."""
    dtypes = config.dtypes or (("float32",) if device.type == "cpu" else ("bfloat16", "float32"))
    sizes = {
        "shapes": level_shapes(4, config.image_size),
        "batch": config.batch_size,
        "heads": config.heads,
        "channels": config.channels,
        "points": config.points,
    }
    for dtype, score, queries, regime in product(dtypes, config.scores, config.queries, config.regimes):
        if queries != "decoder" or regime == config.regimes[-1]:
            regime = "random" if queries == "decoder" else regime
            yield queries, Workload(score, DTYPES[dtype], LEVELS[queries], regime=regime, **sizes)


def measure(
    label: str, workload: Workload, config: BenchmarkConfig, device: torch.device, ceilings: Ceilings
) -> Iterator[Row]:
    """Rows of ours and of every peer that can take the call; nothing is timed before all are right."""
    inputs = workload.inputs(device)
    grad_out = torch.randn(inputs.points.offsets.shape[:3] + inputs.value.shape[3:]).to(device, workload.dtype)
    expected = reference_results(inputs, grad_out)
    attends = {OURS: attend} | {name: PEERS[name] for name in config.peers if obstacle(name, inputs) is None}
    training = {name: training_step(f, inputs, grad_out.flatten(2)) for name, f in attends.items()}
    errors = {name: worst_error(step(), expected) for name, step in training.items()}
    for name, error in errors.items():
        if error > (TOLERANCE[workload.dtype] if name == OURS else PEER_TOLERANCE):
            print(f"{name} is off by {error:.1e} (relative RMS) on {label} {workload.regime}: not timed")
            del attends[name], training[name]
    rounds = config.rounds or (5 if device.type == "cpu" else 100)
    for run in config.passes:
        is_training = run == "training"
        steps = training if is_training else {name: forward_step(f, inputs) for name, f in attends.items()}
        found = side_by_side(steps, device, rounds)
        limit = floor_milliseconds(inputs, is_training, ceilings)
        for name, timing in found.items():
            yield Row(
                workload.score,
                f"{label} {workload.queries}",
                workload.regime,
                str(workload.dtype).removeprefix("torch."),
                run,
                name,
                timing.milliseconds,
                timing.milliseconds / found[OURS].milliseconds if OURS in found else float("nan"),
                limit,
                timing.peak_mib,
                errors[name],
            )


HEADER = (
    f"{'score':8}{'queries':15}{'regime':8}{'dtype':10}{'run':10}{'who':11}"
    f"{'ms':>10}{'x ours':>8}{'limit ms':>10}{'peak MiB':>10}{'error':>9}"
)


def line(row: Row) -> str:
    peak = "-" if row.peak_mib is None else f"{row.peak_mib:.0f}"
    return (
        f"{row.score:8}{row.queries:15}{row.regime:8}{row.dtype:10}{row.run:10}{row.name:11}"
        f"{row.milliseconds:10.3f}{row.ratio:8.2f}{row.limit_ms:10.3f}{peak:>10}{row.error:9.0e}"
    )


def write(path: Path, rows: list[Row], machine: dict[str, str]) -> None:
    """Rows as CSV, each with what it was measured on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*Row.__annotations__, *machine])
        writer.writeheader()
        writer.writerows(asdict(row) | machine for row in rows)


if __name__ == "__main__":
    main()
