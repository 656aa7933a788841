"""Which query answers for which object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from litedetr.boxes import cxcywh_to_xyxy, generalized_iou
from litedetr.losses.config import LossConfig
from litedetr.losses.focal import focal_cost
from litedetr.structures import Predictions, TargetBatch


@dataclass(frozen=True)
class Assignment:
    """n pairs of a query and an object: image and query index, (n,) each, the object's labels (n,) and boxes (n, 4)."""

    image: Tensor
    query: Tensor
    labels: Tensor
    boxes: Tensor


@torch.no_grad()
def match(layers: Sequence[Predictions], targets: TargetBatch, config: LossConfig) -> list[Assignment]:
    """For each layer the assignment of least cost between its queries and the objects of each image (DETR, Eq. 1).

    All layers have the same Q queries, of which those that are not valid are left out. Their costs travel to the host
    together, so the device is waited for once. Where an image has more objects than queries, the dearest are left out.
    Raises ValueError where a cost is not finite, which only diverged predictions have.
    """
    labels, boxes = (pad_sequence([getattr(t, name) for t in targets.items], True) for name in ("labels", "boxes"))
    costs = torch.stack([_cost(predictions, labels, boxes, config) for predictions in layers]).cpu().numpy()
    valid = layers[0].valid
    usable = np.ones(costs.shape[1:3], bool) if valid is None else valid.cpu().numpy()
    return [_assign(cost, usable, targets) for cost in costs]


def _cost(predictions: Predictions, labels: Tensor, boxes: Tensor, config: LossConfig) -> Tensor:
    """(B, Q, N) from predictions and the objects, labels (B, N) and boxes (B, N, 4), padded to one number."""
    own, wanted = predictions.boxes.unsqueeze(2), boxes.unsqueeze(1).to(predictions.boxes.dtype)
    per_class = focal_cost(predictions.class_logits, config.focal_alpha, config.focal_gamma)
    classes = per_class.gather(2, labels.unsqueeze(1).expand(-1, per_class.shape[1], -1))
    l1 = (own - wanted).abs().sum(-1)
    giou = generalized_iou(cxcywh_to_xyxy(own), cxcywh_to_xyxy(wanted))
    return config.cost.classes * classes + config.cost.l1 * l1 - config.cost.giou * giou


def _assign(costs: np.ndarray, usable: np.ndarray, targets: TargetBatch) -> Assignment:
    """costs (B, Q, N_max), of which an image's own objects are the first columns; usable (B, Q)."""
    pairs = []
    for cost, rows, target in zip(costs, usable, targets.items, strict=True):
        (queries,) = rows.nonzero()
        cost = cost[queries, : len(target)]
        if not np.isfinite(cost).all():
            raise ValueError(f"image {target.image_id}: predictions are not finite, nothing can be matched to them")
        chosen, objects = linear_sum_assignment(cost)
        pairs.append((queries[chosen], objects))
    starts = np.cumsum([0, *(len(target) for target in targets.items)])
    image = np.repeat(np.arange(len(pairs)), [len(query) for query, _ in pairs])
    query = np.concatenate([query for query, _ in pairs])
    chosen = np.concatenate([objects + start for (_, objects), start in zip(pairs, starts, strict=False)])
    device = targets.items[0].labels.device
    image, query, chosen = (torch.from_numpy(x).to(device) for x in (image, query, chosen))
    labels, boxes = (torch.cat([getattr(t, name) for t in targets.items])[chosen] for name in ("labels", "boxes"))
    return Assignment(image, query, labels, boxes)


def assign_denoising(targets: TargetBatch, num_groups: int, num_slots: int) -> tuple[Assignment, Tensor]:
    """The known pairs of denoising slots [group, positive | negative, object], and which slots are real (B, slots).

    num_slots: of one half of a group, that is, the most objects an image of the batch has, at least one.
    """
    device = targets.items[0].labels.device
    counts = torch.tensor([len(t) for t in targets.items], device=device)
    real = torch.arange(num_slots, device=device) < counts.unsqueeze(1)  # (B, N_max)
    image, chosen = real.nonzero(as_tuple=True)
    labels = torch.cat([t.labels for t in targets.items])
    boxes = torch.cat([t.boxes for t in targets.items])
    start = torch.arange(num_groups, device=device).unsqueeze(1) * 2 * num_slots
    pairs = Assignment(
        image.repeat(num_groups), (start + chosen).flatten(), labels.repeat(num_groups), boxes.repeat(num_groups, 1)
    )
    return pairs, real.repeat(1, 2 * num_groups)
