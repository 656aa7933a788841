"""Hungarian matching: which query is trained on which object; and the known pairs of denoising."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from litedetr.boxes import cxcywh_to_xyxy, generalized_iou
from litedetr.losses.focal import focal_cost
from litedetr.losses.loss_config import LossConfig
from litedetr.structures import Predictions, TargetBatch
from litedetr.transfers import to_device


@dataclass(frozen=True)
class Group:
    """Layers whose Q queries are matched to the same objects, every object `repeats` times."""

    layers: dict[str, Predictions]  # by the suffix of their losses
    targets: TargetBatch
    repeats: int = 1


@dataclass(frozen=True)
class HostCosts:
    """A group and the costs of its pairs, on the host, where scipy solves the assignment."""

    group: Group
    costs: np.ndarray  # (layers, B, Q, N), N the most objects of an image; an image's own are the first columns
    usable: np.ndarray  # (B, Q), which queries can be matched


@dataclass(frozen=True)
class Assignment:
    """n pairs of a query and an object: image and query index, (n,) each, the object's labels (n,) and boxes (n, 4)."""

    image: Tensor
    query: Tensor
    labels: Tensor
    boxes: Tensor


@torch.no_grad()
def group_costs(group: Group, config: LossConfig) -> tuple[Tensor, Tensor]:
    """`costs` and `usable` of HostCosts, on the device."""
    labels, boxes, _ = group.targets.padded(max(group.targets.counts))
    costs = torch.stack([_cost(predictions, labels, boxes, config) for predictions in group.layers.values()])
    valid = next(iter(group.layers.values())).valid
    usable = costs.new_ones(costs.shape[1:3], dtype=torch.bool) if valid is None else valid
    return costs, usable


def _cost(predictions: Predictions, labels: Tensor, boxes: Tensor, config: LossConfig) -> Tensor:
    """(B, Q, N) from predictions and the objects, labels (B, N) and boxes (B, N, 4), padded to one number."""
    own, wanted = predictions.boxes.unsqueeze(2), boxes.unsqueeze(1).to(predictions.boxes.dtype)
    per_class = focal_cost(predictions.class_logits, config.focal_alpha, config.focal_gamma)
    classes = per_class.gather(2, labels.unsqueeze(1).expand(-1, per_class.shape[1], -1))
    l1 = (own - wanted).abs().sum(-1)
    giou = generalized_iou(cxcywh_to_xyxy(own), cxcywh_to_xyxy(wanted))
    return config.cost.classes * classes + config.cost.l1 * l1 - config.cost.giou * giou


def match(costs: Sequence[HostCosts]) -> list[list[Assignment]]:
    """For each layer of each group the assignment of least cost between its queries and each image's objects (DETR,
    Eq. 1).

    Queries that are not usable are left out, and where an image has more objects than queries, the dearest objects. All
    assignments go to the device in one copy.
    Raises ValueError where a cost is not finite, which only diverged predictions have.
    """
    pairs = [_pairs(layer, known) for known in costs for layer in known.costs]
    together = torch.from_numpy(np.concatenate(pairs, axis=1))
    on_device = to_device(together, costs[0].group.targets.boxes.device)
    parts = iter(on_device.split([part.shape[1] for part in pairs], dim=1))
    return [[_assignment(next(parts), known.group.targets) for _ in known.costs] for known in costs]


def _pairs(costs: np.ndarray, known: HostCosts) -> np.ndarray:
    """The pairs (3, n) of one layer, whose costs are (B, Q, N): image, query and object, counted through the batch."""
    targets, repeats = known.group.targets, known.group.repeats
    starts = np.cumsum([0, *targets.counts])
    found = []
    for image, (cost, rows, count) in enumerate(zip(costs, known.usable, targets.counts, strict=True)):
        (queries,) = rows.nonzero()
        cost = cost[queries, :count]
        if not np.isfinite(cost).all():
            where = targets.image_ids[image]
            raise ValueError(f"image {where}: predictions are not finite, nothing can be matched to them")
        chosen, columns = linear_sum_assignment(np.tile(cost, (1, repeats)))
        objects = columns % max(count, 1) + starts[image]
        found.append(np.stack([np.full_like(chosen, image), queries[chosen], objects]))
    return np.concatenate(found, axis=1)


def _assignment(pairs: Tensor, targets: TargetBatch) -> Assignment:
    image, query, chosen = pairs.unbind()
    return Assignment(image, query, targets.labels[chosen], targets.boxes[chosen])


def assign_denoising(targets: TargetBatch, num_groups: int, num_slots: int) -> tuple[Assignment, Tensor]:
    """The known pairs of denoising slots [group, positive | negative, object], and which slots are real (B, slots).

    num_slots: of one half of a group, that is, the most objects an image of the batch has, at least one.
    """
    image, place = targets.slots
    _, _, real = targets.padded(num_slots)
    start = torch.arange(num_groups, device=place.device).unsqueeze(1) * 2 * num_slots
    pairs = Assignment(
        image.repeat(num_groups),
        (start + place).flatten(),
        targets.labels.repeat(num_groups),
        targets.boxes.repeat(num_groups, 1),
    )
    return pairs, real.repeat(1, 2 * num_groups)
