"""Focal loss (Lin et al., 2017) on logits."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def focal_loss(logits: Tensor, targets: Tensor, alpha: float, gamma: float) -> Tensor:
    """Elementwise loss for binary targets of the same shape."""
    probability = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    missed = probability * (1 - targets) + (1 - probability) * targets
    return (alpha * targets + (1 - alpha) * (1 - targets)) * missed**gamma * cross_entropy


def focal_cost(logits: Tensor, alpha: float, gamma: float) -> Tensor:
    """Class cost of the matching: the focal loss of a query with the class as its target, minus that without."""
    return focal_cost_of_probability(logits.sigmoid(), alpha, gamma)


def focal_cost_of_probability(probability: Tensor, alpha: float, gamma: float) -> Tensor:
    """`focal_cost` of a class whose probability is known."""
    as_object = alpha * (1 - probability) ** gamma * -(probability + 1e-8).log()
    as_background = (1 - alpha) * probability**gamma * -(1 - probability + 1e-8).log()
    return as_object - as_background
