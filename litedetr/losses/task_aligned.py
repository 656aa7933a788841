"""Task-aligned assignment (TOOD, Feng et al., 2021): the tokens that are best at both tasks learn an object."""

from __future__ import annotations

import torch
from torch import Tensor

from litedetr.boxes import box_iou, cxcywh_to_xyxy
from litedetr.structures import DenseOutput, TargetBatch

IOU_POWER = 6  # beta of the metric; alpha, that of the score, is 1


@torch.no_grad()
def owners(dense: DenseOutput, targets: TargetBatch) -> Tensor:
    """(B, S) int64: the object that each token learns, counted through the batch; -1: none.

    Nothing waits for the device.
    An object is learned by the `num_positives` tokens of the largest s * u^6, s their score of its class and u the IoU
    of their box, among those with the centre in its box. Three rules of ours are for small objects:

    - if no centre lies in the box, the nearest token learns it;
    - a token that is the only one of an object is not taken away by an object that has others;
    - any other token that several objects want learns the one of the largest IoU, as in TOOD.
    """
    labels, boxes, real = targets.padded(max(*targets.counts, 1))
    predicted, boxes = dense.predictions.boxes.unsqueeze(2), boxes.unsqueeze(1)
    iou = box_iou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(boxes.to(predicted.dtype)))  # (B, S, N)
    scores = dense.predictions.class_logits.sigmoid()
    scores = scores.gather(2, labels.unsqueeze(1).expand(-1, scores.shape[1], -1))
    wanted = _best(scores * iou**IOU_POWER, _eligible(dense, boxes) & real.unsqueeze(1), dense.num_positives)
    is_only_one = wanted.sum(1, keepdim=True) == 1
    slot = (iou + is_only_one).masked_fill(~wanted, -1).argmax(2)
    return _numbers(targets, labels).gather(1, slot).masked_fill(~wanted.any(2), -1)


def _eligible(dense: DenseOutput, boxes: Tensor) -> Tensor:
    """(B, S, N) bool, which tokens may learn which of the `boxes` (B, 1, N, 4): never one on padding."""
    valid = dense.predictions.valid
    offset = (dense.centres.unsqueeze(2) - boxes[..., :2]).abs()  # (B, S, N, 2)
    inside, distance = (offset < boxes[..., 2:] / 2).all(-1), offset.square().sum(-1)
    if valid is not None:
        inside, distance = inside & valid.unsqueeze(2), distance.masked_fill(~valid.unsqueeze(2), torch.inf)
    nearest = torch.zeros_like(inside).scatter_(1, distance.argmin(1, keepdim=True), True)
    return inside | (nearest & ~inside.any(1, keepdim=True))


def _best(metric: Tensor, eligible: Tensor, number: int) -> Tensor:
    """(B, S, N) bool: for every object the at most `number` eligible tokens of the largest metric."""
    found = metric.masked_fill(~eligible, -1).topk(min(number, metric.shape[1]), dim=1)
    # A NaN is larger than any number, and chosen: so the loss is NaN, and the step is not taken.
    return torch.zeros_like(eligible).scatter_(1, found.indices, ~(found.values < 0))


def _numbers(targets: TargetBatch, labels: Tensor) -> Tensor:
    """(B, N): which object of the batch is in each slot."""
    return torch.zeros_like(labels).index_put_(targets.slots, torch.arange(len(targets.boxes), device=labels.device))
