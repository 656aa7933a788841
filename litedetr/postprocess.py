"""From predictions to detections."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from litedetr.boxes import cxcywh_to_xyxy
from litedetr.structures import Detections, Predictions


def postprocess(
    predictions: Predictions, original_sizes: Sequence[tuple[int, int]], max_detections: int = 300
) -> list[Detections]:
    """The best `max_detections` (query, class) pairs of each image, best first; none of queries that fell on padding.

    original_sizes: (height, width) of each image, in whose pixels the boxes are given.
    """
    found = zip(*best_pairs(predictions, max_detections), _numbers_of_pairs(predictions), original_sizes, strict=True)
    return [
        Detections(scores, labels, boxes * boxes.new_tensor([width, height, width, height])).best(number)
        for scores, labels, boxes, number, (height, width) in found
    ]


def _numbers_of_pairs(predictions: Predictions) -> list[int]:
    """How many (query, class) pairs each image has; all others are silent, and so the last."""
    batch, queries, num_classes = predictions.class_logits.shape
    if predictions.valid is None:
        return [queries * num_classes] * batch
    return (predictions.valid.sum(1) * num_classes).tolist()


def best_pairs(predictions: Predictions, max_detections: int = 300) -> tuple[Tensor, Tensor, Tensor]:
    """As `postprocess`, for the batch at once: scores and labels (B, N), boxes (B, N, 4) xyxy relative to the image."""
    scores = predictions.class_logits.sigmoid()
    queries, num_classes = scores.shape[1:]
    best, index = scores.flatten(1).topk(min(max_detections, queries * num_classes), dim=1)
    chosen = (index // num_classes).unsqueeze(-1).expand(-1, -1, 4)
    return best, index % num_classes, cxcywh_to_xyxy(predictions.boxes).gather(1, chosen)
