"""Boxes: (cx, cy, w, h) relative to the image inside the model, (x1, y1, x2, y2) in pixels outside."""

import torch
from torch import Tensor


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(..., 4) centre and size to corners."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """(..., 4) corners to centre and size."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def area(boxes: Tensor) -> Tensor:
    """(...,) areas of xyxy boxes."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _intersection_and_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    overlap = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    intersection = overlap[..., 0] * overlap[..., 1]
    return intersection, area(a) + area(b) - intersection


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of xyxy boxes a and b, (..., 4) each, broadcast against each other: in pairs if their shapes are the same.

    A box of zero size has IoU 0 with every box, itself too. No constant is added to the union, which would take from
    the IoU of small boxes: boxes of 1 % of the image's sides have an area of 1e-4.
    """
    intersection, union = _intersection_and_union(a, b)
    return intersection / union.clamp(min=torch.finfo(union.dtype).tiny)


def generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    """GIoU of xyxy boxes a and b, (..., 4) each, broadcast against each other (Rezatofighi et al., 2019).

    1e-6 in the denominators, as in the published code: a box of zero size has IoU 0 with itself, not NaN.
    """
    intersection, union = _intersection_and_union(a, b)
    hull = torch.cat([torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])], dim=-1)
    hull_area = area(hull)
    return intersection / (union + 1e-6) - (hull_area - union) / (hull_area + 1e-6)


def inverse_sigmoid(x: Tensor, eps: float = 1e-3) -> Tensor:
    """log(x / (1 - x)) with both terms clamped at `eps`, as DINO refines its reference boxes."""
    x = x.clamp(min=0, max=1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))
