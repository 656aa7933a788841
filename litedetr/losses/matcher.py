"""Which query answers for which object."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from litedetr.boxes import cxcywh_to_xyxy, generalized_iou
from litedetr.losses.config import LossConfig
from litedetr.losses.focal import focal_cost
from litedetr.structures import Predictions, Target, TargetBatch


@dataclass(frozen=True)
class Assignment:
    """n pairs of a query and an object: image and query index, (n,) each, the object's labels (n,) and boxes (n, 4)."""

    image: Tensor
    query: Tensor
    labels: Tensor
    boxes: Tensor


@torch.no_grad()
def match(predictions: Predictions, targets: TargetBatch, config: LossConfig) -> Assignment:
    """The assignment of least cost between all queries and the objects of each image (DETR, Eq. 1).

    Raises ValueError where an image has a cost that is not finite, which only diverged predictions have.
    """
    costs = [
        _cost(predictions.class_logits[i], predictions.boxes[i], target, config).cpu().numpy()
        for i, target in enumerate(targets.items)
    ]
    for cost, target in zip(costs, targets.items, strict=True):
        if not np.isfinite(cost).all():
            raise ValueError(f"image {target.image_id}: predictions are not finite, nothing can be matched to them")
    pairs = [linear_sum_assignment(cost) for cost in costs]
    device = predictions.boxes.device
    query = torch.from_numpy(np.concatenate([query for query, _ in pairs])).to(device)
    counts = torch.tensor([len(query) for query, _ in pairs])
    image = torch.arange(len(pairs)).repeat_interleave(counts).to(device)
    objects = [torch.from_numpy(chosen).to(device) for _, chosen in pairs]
    labels = torch.cat([t.labels[chosen] for t, chosen in zip(targets.items, objects, strict=True)])
    boxes = torch.cat([t.boxes[chosen] for t, chosen in zip(targets.items, objects, strict=True)])
    return Assignment(image, query, labels, boxes)


def _cost(class_logits: Tensor, boxes: Tensor, target: Target, config: LossConfig) -> Tensor:
    """(Q, N) from class_logits (Q, K), boxes (Q, 4) and the objects of one image."""
    wanted = target.boxes.to(boxes.dtype)
    classes = focal_cost(class_logits[:, target.labels], config.focal_alpha, config.focal_gamma)
    l1 = torch.cdist(boxes, wanted, p=1)
    giou = generalized_iou(cxcywh_to_xyxy(boxes)[:, None], cxcywh_to_xyxy(wanted)[None])
    return config.cost.classes * classes + config.cost.l1 * l1 - config.cost.giou * giou


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
