"""A training step with each option that saves memory: what it holds, and how long it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field

from litedetr.engine.run_config import Device, beside_model, detector_config
from litedetr.kernels.bench.side_by_side import side_by_side
from litedetr.settings import NotNegative, Text, settings
from litedetr.tools.memory.sample_step import Memory, SampleStep, StepConfig
from litedetr.tools.tables import text_table

MIB = 2**20
WIDTHS = {"weights": 9, "gradients": 11, "moments": 9, "average": 9, "kept": 8, "peak": 8, "total": 8}


@settings()
class MemoryConfig:
    """The settings of conf/memory.yaml beside the model's and the step's."""

    device: Device
    rounds: NotNegative
    options: Annotated[dict[Text, tuple[Text, ...]], Field(min_length=1)]


def compare_options(
    config: MemoryConfig, compose_with: Callable[[Sequence[str]], dict[str, Any]], device: torch.device
) -> str:
    """A table with a line for each option. compose_with: settings that an option adds -> all settings."""
    steps = {name: _step(compose_with(added), device) for name, added in config.options.items()}
    memory = {name: step.memory() for name, step in steps.items()}
    timed = {name: step for name, step in steps.items() if config.rounds and _can_be_timed(step)}
    times = {n: t.milliseconds for n, t in side_by_side(timed, device, config.rounds, graphs=False).items()}
    first = times.get(next(iter(steps)))
    ratios = {name: first and time / first for name, time in times.items()}
    columns = [("MiB", "<26"), *((name, f">{width}.0f") for name, width in WIDTHS.items()), ("time", ">7.2f")]
    return text_table(columns, [(name, *_mib(found), ratios.get(name)) for name, found in memory.items()])


def _step(composed: dict[str, Any], device: torch.device) -> SampleStep:
    _, step = beside_model(composed, MemoryConfig, StepConfig)
    return SampleStep(detector_config(composed), step, device)


def _can_be_timed(step: SampleStep) -> bool:
    """Half precision on a CPU tells nothing of a GPU's."""
    return step.device.type != "cpu" or step.config.precision == "fp32"


def _mib(memory: Memory) -> list[float]:
    state = (memory.parameters, memory.gradients, memory.moments, memory.average)
    return [number / MIB for number in (*state, memory.kept, memory.peak, memory.total)]
