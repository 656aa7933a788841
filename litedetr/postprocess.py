"""From predictions to detections."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from litedetr.boxes import cxcywh_to_xyxy
from litedetr.structures import Detections, Predictions


def postprocess(
    predictions: Predictions, original_sizes: Sequence[tuple[int, int]], max_detections: int = 300
) -> list[Detections]:
    """The best `max_detections` (query, class) pairs of each image, best first.

    original_sizes: (height, width) of each image, in whose pixels the boxes are given.
    """
    return [
        Detections(scores, labels, boxes * boxes.new_tensor([width, height, width, height]))
        for scores, labels, boxes, (height, width) in zip(
            *best_pairs(predictions, max_detections), original_sizes, strict=True
        )
    ]


def best_pairs(predictions: Predictions, max_detections: int = 300) -> tuple[Tensor, Tensor, Tensor]:
    """As `postprocess`, for the batch at once: scores and labels (B, N), boxes (B, N, 4) xyxy relative to the image."""
    scores = predictions.class_logits.sigmoid()
    queries, num_classes = scores.shape[1:]
    best, index = scores.flatten(1).topk(min(max_detections, queries * num_classes), dim=1)
    chosen = (index // num_classes).unsqueeze(-1).expand(-1, -1, 4)
    return best, index % num_classes, cxcywh_to_xyxy(predictions.boxes).gather(1, chosen)
