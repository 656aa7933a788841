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
    scores, boxes = predictions.class_logits.sigmoid(), cxcywh_to_xyxy(predictions.boxes)
    return [
        _best(image_scores, image_boxes, size, max_detections)
        for image_scores, image_boxes, size in zip(scores, boxes, original_sizes, strict=True)
    ]


def _best(scores: Tensor, boxes: Tensor, size: tuple[int, int], max_detections: int) -> Detections:
    num_classes = scores.shape[-1]
    best, index = scores.flatten().topk(min(max_detections, scores.numel()))
    height, width = size
    return Detections(
        best, index % num_classes, boxes[index // num_classes] * boxes.new_tensor([width, height, width, height])
    )
