"""What a training step holds in memory and how long it takes, with each option that saves memory.

python scripts/memory.py
python scripts/memory.py rounds=0 'image_size=[800,1333]' batch_size=2 precision=bf16
"""

from dataclasses import dataclass

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from litedetr.cli.compose import as_mapping
from litedetr.cli.script import script
from litedetr.engine.distributed import join_ranks, use_all_cores
from litedetr.engine.run_config import Device, beside_model, detector_config
from litedetr.kernels.bench.side_by_side import side_by_side
from litedetr.kernels.bench.timing import Timing
from litedetr.settings import require
from litedetr.tools.memory import Memory, SampleStep, StepConfig

MIB = 2**20
COLUMNS = {"weights": 9, "gradients": 11, "moments": 9, "average": 9, "kept": 8, "peak": 8, "total": 8}


@dataclass(frozen=True)
class MemoryConfig:
    """The settings of conf/memory.yaml beside the model's and the step's."""

    device: Device
    rounds: int
    options: dict[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        require(self.rounds >= 0, "rounds", "at least 0", self.rounds)
        require(len(self.options) > 0, "options", "at least one", self.options)


@script("memory")
def main(cfg: DictConfig) -> None:
    config, _ = beside_model(as_mapping(cfg), MemoryConfig, StepConfig)
    use_all_cores()
    with join_ranks(config.device) as ranks:
        steps = {name: sample_step(added, ranks.device) for name, added in config.options.items()}
        memory = {name: step.memory() for name, step in steps.items()}
        timed = {name: step for name, step in steps.items() if config.rounds and can_be_timed(step)}
        times = side_by_side(timed, ranks.device, config.rounds, graphs=False)
    print(f"{'MiB':26}", *(f"{name:>{width}}" for name, width in COLUMNS.items()), f"{'time':>7}", sep="")
    for name, found in memory.items():
        print(line(name, found, ratio(times, name, next(iter(steps)))))


def sample_step(added: tuple[str, ...], device: torch.device) -> SampleStep:
    """Of the command line's settings with those of an option."""
    settings = as_mapping(hydra.compose("memory", [*HydraConfig.get().overrides.task, *added]))
    _, step = beside_model(settings, MemoryConfig, StepConfig)
    return SampleStep(detector_config(settings), step, device)


def can_be_timed(step: SampleStep) -> bool:
    """Half precision on a CPU tells nothing of a GPU's."""
    return step.device.type != "cpu" or step.config.precision == "fp32"


def ratio(times: dict[str, Timing], name: str, first: str) -> float | None:
    return times[name].milliseconds / times[first].milliseconds if name in times and first in times else None


def line(name: str, memory: Memory, time: float | None) -> str:
    state = (memory.parameters, memory.gradients, memory.moments, memory.average)
    widths = zip((*state, memory.kept, memory.peak, memory.total), COLUMNS.values(), strict=True)
    cells = "".join(f"{value / MIB:{width}.0f}" for value, width in widths)
    return f"{name:26}{cells}{'-' if time is None else f'{time:.2f}':>7}"


if __name__ == "__main__":
    main()
