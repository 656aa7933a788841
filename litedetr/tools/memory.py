"""What a training step holds in memory, by the tensors that are alive, and its time, with options that save memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from litedetr.engine.muon import hidden_matrices
from litedetr.engine.precision import autocast
from litedetr.engine.run_config import Device, beside_model, detector_config
from litedetr.engine.schedule_config import OptimizerName
from litedetr.kernels.bench.side_by_side import side_by_side
from litedetr.losses import Criterion, LossConfig
from litedetr.models import DetectorConfig, build_detector
from litedetr.settings import Flag, Many, NotNegative, Text, settings
from litedetr.tools.random_batch import RandomBatch
from litedetr.tools.tables import text_table

MIB = 2**20
WIDTHS = {"weights": 9, "gradients": 11, "moments": 9, "average": 9, "kept": 8, "peak": 8, "total": 8}


@settings()
class MemoryConfig:
    """The settings of conf/memory.yaml beside the model's and the step's."""

    device: Device
    rounds: NotNegative
    options: Annotated[dict[Text, Many[Text]], Field(min_length=1)]


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


@dataclass(frozen=True)
class Memory:
    """Bytes."""

    parameters: int  # with buffers; like the next three there from step to step
    gradients: int
    moments: int
    average: int
    kept: int  # alive between the forward and the backward pass
    peak: int  # the most alive during both, beside the first four

    @property
    def state(self) -> int:
        return self.parameters + self.gradients + self.moments + self.average

    @property
    def total(self) -> int:
        return self.state + self.peak


@settings()
class StepConfig(RandomBatch):
    """The settings of conf/memory.yaml that make a step."""

    average: Flag  # whether there is a moving average of the weights
    optimizer: OptimizerName = "adamw"


class SampleStep:
    """step() -> one forward and backward pass of the detector, whose gradients are there from the start."""

    def __init__(self, model: DetectorConfig, config: StepConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        torch.manual_seed(0)
        self.model = build_detector(model, config.num_classes).to_device(device).train()
        self.images, self.targets = config.images(device), config.targets(device)
        self.criterion = Criterion(LossConfig())
        for parameter in self.trained:
            parameter.grad = torch.zeros_like(parameter)

    @property
    def trained(self) -> list[Tensor]:
        return [p for p in self.model.parameters() if p.requires_grad]

    def loss(self) -> Tensor:
        with autocast(self.device, self.config.precision):
            output = self.model(self.images, self.targets)
        return self.criterion(output, self.targets).total

    def __call__(self) -> None:
        self.loss().backward()

    def memory(self) -> Memory:
        weights = [*self.model.parameters(), *self.model.buffers()]
        gradients = [p.grad for p in self.trained]
        inputs = [self.images.pixels, self.images.sizes, self.targets.numbers, self.targets.boxes]
        with LiveBytes([*weights, *gradients, *inputs]) as live:
            loss = self.loss()
            kept = live.now
            loss.backward()
        size = sum(x.nbytes for x in weights)
        trained = sum(x.nbytes for x in gradients)
        return Memory(size, trained, self._moments(), size if self.config.average else 0, kept, live.peak)

    def _moments(self) -> int:
        """Two of each trained parameter with AdamW, one of those that Muon trains."""
        of_muon = hidden_matrices(self.model) if self.config.optimizer == "muon" else set()
        return sum(p.nbytes * (1 if p in of_muon else 2) for p in self.trained)


class LiveBytes(TorchDispatchMode):
    """While it is entered, counts the storages that operators make, but not those of `known` tensors.

    A storage counts once, from the operator that makes it until nothing holds it any more: any device tells the same.
    So it counts what autograd keeps, what activation checkpointing keeps (the arguments of layers, which are saved
    tensors of no operator), and what lives between operators. It leaves out what an operator takes for itself while it
    runs (the workspace of a convolution), what an allocator rounds up or cannot use again, and the device's context.

    now: bytes alive. peak: the most that were alive at once.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known = [x.untyped_storage() for x in known]  # held, so that their addresses stay theirs
        self._addresses = {storage._cdata for storage in self._known}
        self._alive: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._see, result)
        return result

    def _see(self, x: Tensor) -> None:
        storage = x.untyped_storage()
        address, size = storage._cdata, storage.nbytes()
        if address in self._addresses or address in self._alive:
            return

        def gone(_: weakref.ref) -> None:
            del self._alive[address]
            self.now -= size

        self._alive[address] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)
