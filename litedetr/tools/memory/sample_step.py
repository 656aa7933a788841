"""A training step on random images, and what it holds in memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from litedetr.engine.precision import autocast
from litedetr.losses import Criterion, LossConfig
from litedetr.models import DetectorConfig, build_detector
from litedetr.settings import Flag, settings
from litedetr.tools.memory.live_bytes import LiveBytes
from litedetr.tools.random_batch import RandomBatch

MOMENTS = 2  # AdamW's, for each trained parameter


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


class SampleStep:
    """step() -> one forward and backward pass of the detector, whose gradients are there from the start."""

    def __init__(self, model: DetectorConfig, config: StepConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        torch.manual_seed(0)
        self.model = build_detector(model, config.num_classes).to(device).train()
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
        return Memory(size, trained, MOMENTS * trained, size if self.config.average else 0, kept, live.peak)
