"""AdamW with the recipe's parameter groups."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from litedetr.engine.run_config import Precision
from litedetr.engine.schedule_config import ScheduleConfig

# Smallest scale of the fp16 loss. The scale begins at 65536 and each overflow halves it. At this one a loss near 1
# cannot overflow, so the gradient itself is broken.
LEAST_SCALE = 2.0**-10


def build_optimizer(model: nn.Module, config: ScheduleConfig) -> AdamW:
    """Groups trainable parameters by rate (backbone, sampling offsets, rest) and weight decay.

    Every group carries its peak rate as `peak_lr`. AdamW is in its fused form, the fastest on CPUs and GPUs alike.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = _peak_rate(name, config)
            decays = config.decay_norms_and_biases or parameter.ndim > 1
            groups.setdefault((rate, config.weight_decay if decays else 0.0), []).append(parameter)
    named = [
        {"params": parameters, "lr": rate, "peak_lr": rate, "weight_decay": decay}
        for (rate, decay), parameters in groups.items()
    ]
    return AdamW(named, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=True)


def _peak_rate(name: str, config: ScheduleConfig) -> float:
    if name.startswith("backbone."):
        return config.backbone_lr
    if "sampling_offsets" in name:
        return config.sampling_offsets_lr
    return config.lr


@dataclass(frozen=True)
class WeightUpdate:
    """How gradients become new weights."""

    optimizer: AdamW
    scaler: torch.amp.GradScaler  # of the fp16 loss; disabled for other precisions
    clip_norm: float | None  # largest gradient norm; None does not clip

    @classmethod
    def build(cls, model: nn.Module, config: ScheduleConfig, precision: Precision) -> WeightUpdate:
        """For `model` on the device where it is now."""
        device = next(model.parameters()).device
        scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        return cls(build_optimizer(model, config), scaler, config.clip_norm)

    def zero_grad(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of `loss`, scaled, to the parameters'."""
        self.scaler.scale(loss).backward()

    def unscale_and_clip(self, parameters: Iterable[nn.Parameter]) -> tuple[Tensor, Tensor]:
        """Returns the gradient's norm before clipping and the scaler's scale, scalars on the device."""
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(parameters, self.clip_norm or math.inf)
        return norm, self.scaler.scale(torch.ones_like(norm))  # `get_scale` would wait for the device

    def skips_overflow(self, scale: float) -> bool:
        """Whether a gradient that is not finite is normal: with fp16 the scaled loss may overflow in the backward pass.

        `apply` then skips the step and lowers the scale, down to LEAST_SCALE.
        """
        return self.scaler.is_enabled() and scale > LEAST_SCALE

    def apply(self) -> None:
        self.scaler.step(self.optimizer)
        self.scaler.update()


def set_learning_rate(optimizer: Optimizer, factor: float) -> None:
    """Give every group `factor` times its peak rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor


def optimizer_state(model: nn.Module, optimizer: Optimizer) -> dict[str, dict[str, Any]]:
    """The optimiser's moments by parameter name, so that they survive another grouping of the parameters."""
    return {name: optimizer.state[p] for name, p in model.named_parameters() if p in optimizer.state}


def load_optimizer_state(model: nn.Module, optimizer: Optimizer, state: dict[str, dict[str, Any]]) -> None:
    """The inverse of `optimizer_state`. Rates and weight decay stay those of the configuration."""
    order = [p for group in optimizer.param_groups for p in group["params"]]
    index = {id(parameter): i for i, parameter in enumerate(order)}
    by_index = {index[id(p)]: state[name] for name, p in model.named_parameters() if name in state and id(p) in index}
    optimizer.load_state_dict({"state": by_index, "param_groups": optimizer.state_dict()["param_groups"]})
