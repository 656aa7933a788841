"""What the matching cost and the loss are made of, and how much each part weighs."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated

from pydantic import Field

from litedetr.losses.class_cost import CLASS_COSTS, FocalCost
from litedetr.losses.classification import CLASSIFICATION_LOSSES, Focal
from litedetr.losses.terms import TERMS
from litedetr.settings import Number, Probability, choice_of, key_of, require, settings

TermName = key_of(TERMS)

# Beyond the bound, sums in single precision overflow or lose the other terms.
Weight = Annotated[Number, Field(ge=0, le=1_000_000)]


@settings("loss.cost")
class CostWeights:
    classes: Weight = 2.0  # loss.class_cost of the object's class
    l1: Weight = 5.0  # L1 distance of the boxes
    giou: Weight = 2.0  # generalised IoU of the boxes


def _published_weights() -> dict[str, float]:
    return {"classes": 1.0, "l1": 5.0, "giou": 2.0}


@settings("loss")
class LossConfig:
    cost: CostWeights = field(default_factory=CostWeights)  # of the Hungarian matching
    class_cost: choice_of(CLASS_COSTS, "loss.class_cost") = FocalCost()  # a ClassCost
    # of the terms of the loss; those of DETR are always there, so that every head has a gradient; 0: only logged
    weights: dict[TermName, Weight] = field(default_factory=_published_weights)
    classification: choice_of(CLASSIFICATION_LOSSES, "loss.classification") = Focal()  # the term `classes`
    focal_alpha: Probability = 0.25  # Lin et al., 2017; of the focal loss, and of all class costs
    focal_gamma: Weight = 2.0
    one_to_many: Weight = 1.0  # weight of the losses of one-to-many queries beside the others (H-DETR, lambda)

    def __post_init__(self) -> None:
        for term in _published_weights():
            require(term in self.weights, f"loss.weights.{term}", "a value (0: the term is only logged)", None)
