"""The optimisers with the recipe's parameter groups."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from litedetr.engine.muon import Muon, hidden_matrices
from litedetr.engine.run_config import Precision
from litedetr.engine.schedule_config import ScheduleConfig

# Smallest scale of the fp16 loss. The scale begins at 65536 and each overflow halves it. At this one a loss near 1
# cannot overflow, so the gradient itself is broken.
LEAST_SCALE = 2.0**-10


def build_optimizers(model: nn.Module, config: ScheduleConfig) -> list[Optimizer]:
    """AdamW, and with schedule.optimizer=muon Muon beside it, for hidden matrices.

    Both group trainable parameters by rate (backbone, sampling offsets, rest) and weight decay, and every group carries
    its peak rate as `peak_lr`. AdamW is in its fused form, the fastest on CPUs and GPUs alike.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    hidden = hidden_matrices(model) if config.optimizer == "muon" else set()
    of_muon = _groups({name: p for name, p in trained.items() if p in hidden}, config, config.muon_rate)
    of_adamw = _groups({name: p for name, p in trained.items() if p not in hidden}, config)
    optimizers = []
    if of_adamw:
        optimizers.append(AdamW(of_adamw, betas=config.betas, fused=True))
    if of_muon:
        optimizers.append(Muon(of_muon))
    return optimizers


def _groups(parameters: dict[str, nn.Parameter], config: ScheduleConfig, factor: float = 1.0) -> list[dict[str, Any]]:
    """By rate and weight decay. factor: of all rates."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        decays = config.decay_norms_and_biases or parameter.ndim > 1
        key = _peak_rate(name, config) * factor, config.weight_decay if decays else 0.0
        groups.setdefault(key, []).append(parameter)
    return [
        {"params": members, "lr": rate, "peak_lr": rate, "weight_decay": decay}
        for (rate, decay), members in groups.items()
    ]


def _peak_rate(name: str, config: ScheduleConfig) -> float:
    if name.startswith("backbone."):
        return config.backbone_lr
    if "sampling_offsets" in name:
        return config.sampling_offsets_lr
    return config.lr


@dataclass(frozen=True)
class WeightUpdate:
    """How gradients become new weights."""

    optimizers: list[Optimizer]  # each of parameters of its own
    scaler: torch.amp.GradScaler  # of the fp16 loss; disabled for other precisions
    clip_norm: float | None  # largest gradient norm; None does not clip

    @classmethod
    def build(cls, model: nn.Module, config: ScheduleConfig, precision: Precision) -> WeightUpdate:
        """For `model` on the device where it is now."""
        device = next(model.parameters()).device
        scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        return cls(build_optimizers(model, config), scaler, config.clip_norm)

    def set_learning_rate(self, factor: float) -> None:
        """Give every group `factor` times its peak rate."""
        for group in chain.from_iterable(optimizer.param_groups for optimizer in self.optimizers):
            group["lr"] = group["peak_lr"] * factor

    def zero_grad(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of `loss`, scaled, to the parameters'."""
        self.scaler.scale(loss).backward()

    def unscale_and_clip(self, parameters: Iterable[nn.Parameter]) -> tuple[Tensor, Tensor]:
        """Returns the gradient's norm before clipping and the scaler's scale, scalars on the device."""
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(parameters, self.clip_norm or math.inf)
        return norm, self.scaler.scale(torch.ones_like(norm))  # `get_scale` would wait for the device

    def skips_overflow(self, scale: float) -> bool:
        """Whether a gradient that is not finite is normal: with fp16 the scaled loss may overflow in the backward pass.

        `apply` then skips the step and lowers the scale, down to LEAST_SCALE.
        """
        return self.scaler.is_enabled() and scale > LEAST_SCALE

    def apply(self) -> None:
        for optimizer in self.optimizers:
            self.scaler.step(optimizer)
        self.scaler.update()

    def moments(self, model: nn.Module) -> dict[str, dict[str, Any]]:
        """The optimisers' state by parameter name, so that it survives another grouping of the parameters."""
        state = {p: of_one for optimizer in self.optimizers for p, of_one in optimizer.state.items()}
        return {name: state[p] for name, p in model.named_parameters() if p in state}

    def load_moments(self, model: nn.Module, moments: dict[str, dict[str, Any]]) -> None:
        """The inverse of `moments`. Rates and weight decay stay those of the configuration."""
        by_parameter = {p: moments[name] for name, p in model.named_parameters() if name in moments}
        for optimizer in self.optimizers:
            order = [p for group in optimizer.param_groups for p in group["params"]]
            state = {i: by_parameter[p] for i, p in enumerate(order) if p in by_parameter}
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
