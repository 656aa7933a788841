"""What the host needs of predictions before their loss: whether they are finite, and the costs of the matching."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from litedetr.losses.loss_config import LossConfig
from litedetr.losses.matcher import Group, HostCosts, group_costs
from litedetr.structures import DetectorOutput, Predictions
from litedetr.transfers import to_host


@dataclass(frozen=True)
class Readout:
    """broken: names of the predictions that are infinite or NaN, which cannot be matched. costs: one for each group."""

    broken: list[str]
    costs: list[HostCosts]


def read(output: DetectorOutput, groups: Sequence[Group], config: LossConfig) -> Readout:
    """The readout of `output`, whose predictions to match are in `groups`. Waits for the device, once."""
    named = _named(output)
    on_device = [tensor for group in groups for tensor in group_costs(group, config)]
    finite, *costs = to_host(_all_finite(list(named.values())), *on_device)
    broken = [name for name, is_finite in zip(named, finite.tolist(), strict=True) if not is_finite]
    known = zip(groups, costs[::2], costs[1::2], strict=True)
    return Readout(broken, [HostCosts(group, cost.numpy(), usable.numpy()) for group, cost, usable in known])


def _named(output: DetectorOutput) -> dict[str, Predictions]:
    named = {f"decoder layer {i}": layer for i, layer in enumerate(output.layers)}
    if output.proposals is not None:
        named["proposals"] = output.proposals
    if output.one_to_many is not None:
        named |= {f"one-to-many queries, layer {i}": layer for i, layer in enumerate(output.one_to_many.layers)}
    return named


def _all_finite(predictions: Sequence[Predictions]) -> Tensor:
    """(n,) bool."""
    return torch.stack([p.class_logits.isfinite().all() & p.boxes.isfinite().all() for p in predictions])
