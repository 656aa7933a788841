"""Weights of the matching cost and of the loss."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated

from pydantic import Field

from litedetr.settings import Number, Probability, settings

# Beyond the bound, sums in single precision overflow or lose the other terms.
Weight = Annotated[Number, Field(ge=0, le=1_000_000)]


@settings("loss.cost, loss.weights")
class Terms:
    """One weight for each term."""

    classes: Weight
    l1: Weight  # L1 distance of the boxes
    giou: Weight


@settings("loss")
class LossConfig:
    cost: Terms = field(default_factory=lambda: Terms(2.0, 5.0, 2.0))  # of the Hungarian matching
    weights: Terms = field(default_factory=lambda: Terms(1.0, 5.0, 2.0))  # of the loss
    focal_alpha: Probability = 0.25  # Lin et al., 2017
    focal_gamma: Weight = 2.0
    one_to_many: Weight = 1.0  # weight of the losses of one-to-many queries beside the others (H-DETR, lambda)
