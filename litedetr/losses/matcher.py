"""Hungarian matching: which query is trained on which object (DETR, Eq. 1)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from litedetr.boxes import cxcywh_to_xyxy, generalized_iou
from litedetr.losses.class_cost import Candidates
from litedetr.losses.loss_config import LossConfig
from litedetr.losses.supervision import Assignment, Supervision
from litedetr.structures import Predictions, TargetBatch
from litedetr.transfers import to_device, to_host

NOT_FINITE = 1e12  # in place of a cost that is NaN or infinite: more than any finite one


@dataclass(frozen=True)
class Matching:
    """Which query learns which object."""

    assignments: list[list[Assignment]]  # of every layer of every branch
    is_finite: bool  # whether all costs are; predictions are NaN or infinite otherwise


def match(supervisions: Sequence[Supervision], config: LossConfig) -> Matching:
    """The pairs of every layer of every branch: those that are known, else the assignment of least cost.

    Queries that are not valid are matched to nothing. If an image has more objects than queries, the objects of highest
    cost are left out. A cost that is not finite counts as a very high one. Waits for the device once, for the costs of
    all branches; all pairs go back in one copy.
    """
    unknown = [one for one in supervisions if one.known is None]
    tensors = [tensor.numpy() for tensor in to_host(*(x for one in unknown for x in _costs(one, config)))]
    solved = [
        _solve(layer, usable, one)
        for one, costs, usable in zip(unknown, tensors[::2], tensors[1::2], strict=True)
        for layer in costs
    ]
    pairs = _on_device([pairs for pairs, _ in solved], unknown[0].targets.boxes.device)
    assignments = [
        [_assignment(next(pairs), one.targets) if one.known is None else one.known for _ in one.layers]
        for one in supervisions
    ]
    return Matching(assignments, all(is_finite for _, is_finite in solved))


def _on_device(pairs: Sequence[np.ndarray], device: torch.device) -> Iterator[Tensor]:
    """Each of the pairs (3, n), copied as one."""
    together = to_device(torch.from_numpy(np.concatenate(pairs, axis=1)), device)
    return iter(together.split([part.shape[1] for part in pairs], dim=1))


@torch.no_grad()
def _costs(one: Supervision, config: LossConfig) -> tuple[Tensor, Tensor]:
    """(layers, B, Q, N) costs, N the most objects of an image, an image's own first; (B, Q) which queries to match."""
    objects = one.targets.padded(max(one.targets.counts))
    costs = torch.stack([_cost(predictions, *objects, config) for predictions in one.layers])
    valid = one.layers[0].valid
    return costs, costs.new_ones(costs.shape[1:3], dtype=torch.bool) if valid is None else valid


def _cost(predictions: Predictions, labels: Tensor, boxes: Tensor, real: Tensor, config: LossConfig) -> Tensor:
    """(B, Q, N) from predictions and N slots for objects: labels (B, N), boxes (B, N, 4), which are real (B, N)."""
    predicted, target = predictions.boxes.unsqueeze(2), boxes.unsqueeze(1).to(predictions.boxes.dtype)
    l1 = (predicted - target).abs().sum(-1)
    giou = generalized_iou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(target))
    classes = config.class_cost.cost(Candidates(predictions, labels, real, giou), config)
    return config.cost.classes * classes + config.cost.l1 * l1 - config.cost.giou * giou


def _solve(costs: np.ndarray, usable: np.ndarray, one: Supervision) -> tuple[np.ndarray, bool]:
    """The pairs (3, n) of one layer, whose costs are (B, Q, N): image, query and object, counted through the batch; and
    whether its costs are finite.
    """
    counts = one.targets.counts
    starts, all_finite, found = np.cumsum([0, *counts]), True, []
    for image, (cost, rows, count) in enumerate(zip(costs, usable, counts, strict=True)):
        (queries,) = rows.nonzero()
        cost = cost[queries, :count]
        is_finite = np.isfinite(cost)
        if not is_finite.all():
            cost, all_finite = np.where(is_finite, cost, NOT_FINITE), False
        chosen, columns = linear_sum_assignment(np.tile(cost, (1, one.repeats)))
        objects = columns % max(count, 1) + starts[image]
        found.append(np.stack([np.full_like(chosen, image), queries[chosen], objects]))
    return np.concatenate(found, axis=1), all_finite


def _assignment(pairs: Tensor, targets: TargetBatch) -> Assignment:
    image, query, chosen = pairs.unbind()
    return Assignment(image, query, targets.labels[chosen], targets.boxes[chosen])
