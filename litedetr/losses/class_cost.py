"""The class costs of the matching that `loss.class_cost` names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

import torch.nn.functional as F
from torch import Tensor

from litedetr.losses.focal import focal_cost, focal_cost_of_probability
from litedetr.registry import Registry
from litedetr.settings import Probability, settings
from litedetr.structures import Predictions

if TYPE_CHECKING:
    from litedetr.losses.loss_config import LossConfig


@dataclass(frozen=True)
class Candidates:
    """Every query beside every object of its image: Q queries, N slots for objects."""

    predictions: Predictions  # of B images
    labels: Tensor  # (B, N) of the objects
    real: Tensor  # (B, N) bool, which slots hold an object
    giou: Tensor  # (B, Q, N) of the boxes

    def of_labels(self, per_class: Tensor) -> Tensor:
        """(B, Q, N) from a value of each class, (B, Q, K): that of the object's class."""
        return per_class.gather(2, self.labels.unsqueeze(1).expand(-1, per_class.shape[1], -1))

    def usable(self) -> Tensor:
        """(B, Q, N) bool, (B, 1, N) if all queries are valid: pairs of a query and an object that may be matched."""
        objects, valid = self.real.unsqueeze(1), self.predictions.valid
        return objects if valid is None else objects & valid.unsqueeze(-1)


class ClassCost(Protocol):
    """Settings of a class cost, and the cost itself."""

    name: str  # its key in CLASS_COSTS

    def cost(self, candidates: Candidates, config: LossConfig) -> Tensor:
        """(B, Q, N)."""


Choice = TypeVar("Choice", bound=type)
CLASS_COSTS: Registry[type[ClassCost]] = Registry("class cost")  # by its `name`


def class_cost(choice: Choice) -> Choice:
    """Decorates a dataclass of settings with a method `cost`: a choice of `loss.class_cost.name`."""
    return CLASS_COSTS.register(choice.name, choice)


@class_cost
@settings("loss.class_cost")
class FocalCost:
    """Deformable DETR's (Zhu et al., 2021)."""

    name: Literal["focal"] = "focal"

    def cost(self, candidates: Candidates, config: LossConfig) -> Tensor:
        """The focal cost of the object's class."""
        logits = candidates.predictions.class_logits
        return candidates.of_labels(focal_cost(logits, config.focal_alpha, config.focal_gamma))


@class_cost
@settings("loss.class_cost")
class PositionModulatedCost:
    """Stable-DINO's (Liu et al., 2023): a high score for a box that lies elsewhere does not win the object.

    The published code takes the best position over the whole image too, but overwrites the position of an object by
    that of the next one of the same class; here each object has its own.
    """

    name: Literal["position_modulated"] = "position_modulated"
    power: Probability = 0.5  # of the position in the score

    def cost(self, candidates: Candidates, config: LossConfig) -> Tensor:
        """The focal cost of p u^power. p: probability of the object's class; u: GIoU, mapped from [-1, 1] to [0, 1]
        and divided by its maximum in the image.
        """
        position = (candidates.giou + 1) / 2
        # A position that is not finite makes its own cost so, and not those of the image's other queries.
        known = position.nan_to_num(0).masked_fill(~candidates.usable(), 0)
        best = F.pad(known.flatten(1), (0, 1)).amax(1)  # padded by a zero: there may be no pair
        position = position / best.clamp(min=1e-8).view(-1, 1, 1)
        probability = candidates.of_labels(candidates.predictions.class_logits.sigmoid())
        modulated = probability * position.clamp(min=0) ** self.power
        return focal_cost_of_probability(modulated, config.focal_alpha, config.focal_gamma)
