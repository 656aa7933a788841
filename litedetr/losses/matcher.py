"""Hungarian matching: which query is trained on which object (DETR, Eq. 1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from litedetr.boxes import cxcywh_to_xyxy, generalized_iou
from litedetr.losses.focal import focal_cost
from litedetr.losses.loss_config import LossConfig
from litedetr.losses.supervision import Assignment, Supervision
from litedetr.structures import Predictions, TargetBatch
from litedetr.transfers import to_device, to_host

NOT_FINITE = 1e12  # in place of a cost that is NaN or infinite: more than any finite one


def assign(supervisions: Sequence[Supervision], config: LossConfig) -> list[list[Assignment]]:
    """The pairs of every layer of every branch: those that are known, else the assignment of least cost.

    Queries that are not valid are matched to nothing. If an image has more objects than queries, the dearest objects
    are left out. Costs that are not finite are taken for very high ones, and the loss of such predictions is not
    finite either. Waits for the device once, for the costs of all branches; all pairs go back in one copy.
    """
    unknown = [one for one in supervisions if one.known is None]
    matched = iter(_match(unknown, config))
    return [next(matched) if one.known is None else [one.known] * len(one.layers) for one in supervisions]


def _match(unknown: Sequence[Supervision], config: LossConfig) -> list[list[Assignment]]:
    on_host = to_host(*(tensor for one in unknown for tensor in _costs(one, config)))
    known = list(zip(unknown, on_host[::2], on_host[1::2], strict=True))
    pairs = [_pairs(layer, usable.numpy(), one) for one, costs, usable in known for layer in costs.numpy()]
    together = torch.from_numpy(np.concatenate(pairs, axis=1))
    on_device = to_device(together, unknown[0].targets.boxes.device)
    parts = iter(on_device.split([part.shape[1] for part in pairs], dim=1))
    return [[_assignment(next(parts), one.targets) for _ in one.layers] for one in unknown]


@torch.no_grad()
def _costs(one: Supervision, config: LossConfig) -> tuple[Tensor, Tensor]:
    """(layers, B, Q, N) costs, N the most objects of an image, an image's own first; (B, Q) which queries to match."""
    labels, boxes, _ = one.targets.padded(max(one.targets.counts))
    costs = torch.stack([_cost(predictions, labels, boxes, config) for predictions in one.layers])
    valid = one.layers[0].valid
    return costs, costs.new_ones(costs.shape[1:3], dtype=torch.bool) if valid is None else valid


def _cost(predictions: Predictions, labels: Tensor, boxes: Tensor, config: LossConfig) -> Tensor:
    """(B, Q, N) from predictions and the objects, labels (B, N) and boxes (B, N, 4), padded to one number."""
    own, wanted = predictions.boxes.unsqueeze(2), boxes.unsqueeze(1).to(predictions.boxes.dtype)
    per_class = focal_cost(predictions.class_logits, config.focal_alpha, config.focal_gamma)
    classes = per_class.gather(2, labels.unsqueeze(1).expand(-1, per_class.shape[1], -1))
    l1 = (own - wanted).abs().sum(-1)
    giou = generalized_iou(cxcywh_to_xyxy(own), cxcywh_to_xyxy(wanted))
    return config.cost.classes * classes + config.cost.l1 * l1 - config.cost.giou * giou


def _pairs(costs: np.ndarray, usable: np.ndarray, one: Supervision) -> np.ndarray:
    """The pairs (3, n) of one layer, whose costs are (B, Q, N): image, query and object, counted through the batch."""
    counts = one.targets.counts
    starts = np.cumsum([0, *counts])
    found = []
    for image, (cost, rows, count) in enumerate(zip(costs, usable, counts, strict=True)):
        (queries,) = rows.nonzero()
        cost = cost[queries, :count]
        cost = np.where(np.isfinite(cost), cost, NOT_FINITE)
        chosen, columns = linear_sum_assignment(np.tile(cost, (1, one.repeats)))
        objects = columns % max(count, 1) + starts[image]
        found.append(np.stack([np.full_like(chosen, image), queries[chosen], objects]))
    return np.concatenate(found, axis=1)


def _assignment(pairs: Tensor, targets: TargetBatch) -> Assignment:
    image, query, chosen = pairs.unbind()
    return Assignment(image, query, targets.labels[chosen], targets.boxes[chosen])
