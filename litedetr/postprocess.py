"""From predictions to detections."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from litedetr.boxes import cxcywh_to_xyxy
from litedetr.structures import Detections, Predictions

NO_LABEL = -1  # of a pair whose query fell on padding


def pack(predictions: Predictions, max_detections: int = 300) -> Tensor:
    """`best_pairs` as one tensor (B, N, 6), score, label and box, in single precision at least: one copy to the host.

    A label is NO_LABEL where its query fell on padding. Such pairs are the last, as they are silent.
    """
    scores, labels, boxes = best_pairs(predictions, max_detections)
    if predictions.valid is not None:
        number = predictions.valid.sum(1, keepdim=True) * predictions.class_logits.shape[-1]
        place = torch.arange(labels.shape[1], device=labels.device)
        labels = labels.masked_fill(place >= number, NO_LABEL)
    dtype = torch.promote_types(torch.promote_types(scores.dtype, boxes.dtype), torch.float32)  # a half lacks labels
    return torch.cat([scores.to(dtype).unsqueeze(-1), labels.to(dtype).unsqueeze(-1), boxes.to(dtype)], dim=-1)


def unpack(packed: Tensor, original_sizes: Sequence[tuple[int, int]]) -> list[Detections]:
    """The detections of each image, best first, on the CPU, from what `pack` made: the only wait for the device in a
    batch. None are of queries that fell on padding.

    original_sizes: (height, width) of each image, in whose pixels the boxes are given.
    """
    found = []
    for pairs, (height, width) in zip(packed.cpu(), original_sizes, strict=True):
        scores, labels, boxes = pairs[:, 0], pairs[:, 1].long(), pairs[:, 2:]
        number = int((labels != NO_LABEL).sum())
        boxes = boxes * boxes.new_tensor([width, height, width, height])
        found.append(Detections(scores.contiguous(), labels, boxes).best(number))
    return found


def best_pairs(predictions: Predictions, max_detections: int = 300) -> tuple[Tensor, Tensor, Tensor]:
    """The best (query, class) pairs of each image, best first: scores and labels (B, N), boxes (B, N, 4) xyxy relative
    to the image.
    """
    scores = predictions.class_logits.sigmoid()
    queries, num_classes = scores.shape[1:]
    best, index = scores.flatten(1).topk(min(max_detections, queries * num_classes), dim=1)
    chosen = (index // num_classes).unsqueeze(-1).expand(-1, -1, 4)
    return best, index % num_classes, cxcywh_to_xyxy(predictions.boxes).gather(1, chosen)
