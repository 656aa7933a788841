"""What a training step holds in memory, counted from the tensors that are alive: any device tells the same.

A storage counts once, from the operator that makes it until nothing holds it any more. So it counts what autograd
keeps, what activation checkpointing keeps (the arguments of layers, which are saved tensors of no operator), and what
lives between operators. It leaves out what an operator takes for itself while it runs (the workspace of a convolution),
what an allocator rounds up or cannot use again, and the device's context.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from litedetr.engine.precision import autocast
from litedetr.engine.run_config import Precision, require_image_size
from litedetr.losses import Criterion, LossConfig
from litedetr.models import DetectorConfig, build_detector
from litedetr.settings import require
from litedetr.tools.random_batch import random_images, random_targets

MOMENTS = 2  # AdamW's, for each trained parameter


class LiveBytes(TorchDispatchMode):
    """While it is entered, counts the storages that operators make, but not those of `known` tensors.

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


@dataclass(frozen=True)
class Memory:
    """Bytes. parameters, gradients, moments, average: there from step to step; parameters with their buffers.

    kept: alive between the forward and the backward pass. peak: the most alive during both, beside the former four.
    """

    parameters: int
    gradients: int
    moments: int
    average: int
    kept: int
    peak: int

    @property
    def state(self) -> int:
        return self.parameters + self.gradients + self.moments + self.average

    @property
    def total(self) -> int:
        return self.state + self.peak


@dataclass(frozen=True)
class StepConfig:
    """A step on random pixels. image_size: (height, width). num_objects: of each image.

    average: whether there is a moving average of the weights.
    """

    image_size: tuple[int, int]
    batch_size: int
    num_objects: int
    num_classes: int
    precision: Precision
    average: bool

    def __post_init__(self) -> None:
        require_image_size(self.image_size)
        for name in ("batch_size", "num_classes"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        require(self.num_objects >= 0, "num_objects", "at least 0", self.num_objects)


class SampleStep:
    """step() -> one forward and backward pass of the detector, whose gradients are there from the start."""

    def __init__(self, model: DetectorConfig, config: StepConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        torch.manual_seed(0)
        self.model = build_detector(model, config.num_classes).to(device).train()
        self.images = random_images(config.image_size, config.batch_size).to(device)
        objects = (config.image_size, config.batch_size, config.num_objects, config.num_classes)
        self.targets = random_targets(*objects).to(device)
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
        return Memory(size, trained, MOMENTS * trained, size if self.config.average else 0, kept, live.peak)
