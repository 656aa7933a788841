"""The losses that `loss.classification` names. A new one is a class here and its file in conf/loss/.

Those but the focal loss know the box: a query learns a class score that says how well its box fits. q is the IoU of a
query's box with its object's, p the probability of a class; neither q nor a target made of them has a gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Protocol, TypeVar

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from litedetr.losses.focal import focal_loss
from litedetr.registry import Registry
from litedetr.settings import Number, Probability, settings

if TYPE_CHECKING:
    from litedetr.losses.loss_config import LossConfig
    from litedetr.losses.terms import Matched

Exponent = Annotated[Number, Field(ge=0, le=100)]
SmoothExponent = Annotated[Number, Field(ge=1, le=100)]  # below 1 the gradient is infinite at 0


class ClassificationLoss(Protocol):
    """Settings of a loss, and the loss itself."""

    name: str  # its key in CLASSIFICATION_LOSSES

    def loss(self, matched: Matched, config: LossConfig) -> Tensor:
        """(B, Q, K) of every query and class, in the precision of the logits."""


Choice = TypeVar("Choice", bound=type)
CLASSIFICATION_LOSSES: Registry[type[ClassificationLoss]] = Registry("classification loss")  # by its `name`


def classification_loss(choice: Choice) -> Choice:
    """Decorates a dataclass of settings with a method `loss`: a choice of `loss.classification.name`."""
    return CLASSIFICATION_LOSSES.register(choice.name, choice)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """-t log p - (1 - t) log(1 - p), elementwise."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


@classification_loss
@settings("loss.classification")
class Focal:
    """Lin et al., 2017, as DETR's descendants use it. alpha and gamma are loss.focal_alpha and loss.focal_gamma."""

    name: Literal["focal"] = "focal"

    def loss(self, matched: Matched, config: LossConfig) -> Tensor:
        """-alpha (1 - p)^gamma log p at objects, -(1 - alpha) p^gamma log(1 - p) elsewhere."""
        return focal_loss(matched.class_logits, matched.class_targets, config.focal_alpha, config.focal_gamma)


@classification_loss
@settings("loss.classification")
class Varifocal:
    """VarifocalNet (Zhang et al., 2021, Eq. 2), as RT-DETR uses it: the factors of the cross-entropy have no gradient,
    and an object whose query does not overlap it costs nothing (VarifocalNet takes that query for background).
    """

    name: Literal["varifocal"] = "varifocal"
    alpha: Probability = 0.75  # weight of the background
    gamma: Exponent = 2.0  # how much easy background counts less

    def loss(self, matched: Matched, config: LossConfig) -> Tensor:
        """-q (q log p + (1 - q) log(1 - p)) at objects, -alpha p^gamma log(1 - p) elsewhere."""
        quality = matched.at_classes(matched.iou())
        background = self.alpha * matched.class_logits.detach().sigmoid() ** self.gamma * (1 - matched.class_targets)
        return (quality + background) * cross_entropy(matched.class_logits, quality)


@classification_loss
@settings("loss.classification")
class IouAwareBce:
    """IA-BCE (Align-DETR, Cai et al., 2023), for one query an object: the weights of the many-to-one matching of the
    same paper are not here. The lower bound of the target is the published code's.
    """

    name: Literal["ia_bce"] = "ia_bce"
    alpha: Probability = 0.25  # 0: the target is the IoU, 1: the probability
    gamma: SmoothExponent = 2.0  # how much easy background counts less
    lowest: ClassVar[float] = 0.01  # target of an object

    def loss(self, matched: Matched, config: LossConfig) -> Tensor:
        """-t log p - (1 - t) log(1 - p) at objects, t = p^alpha q^(1 - alpha); -p^gamma log(1 - p) elsewhere."""
        probability, quality = matched.class_logits.sigmoid(), matched.at_classes(matched.iou())
        targets = (probability.detach() ** self.alpha * quality ** (1 - self.alpha)).clamp(min=self.lowest)
        targets = matched.class_targets * targets
        background = probability**self.gamma * (1 - matched.class_targets)
        return (matched.class_targets + background) * cross_entropy(matched.class_logits, targets)


@classification_loss
@settings("loss.classification")
class PositionSupervised:
    """Stable-DINO's (Liu et al., 2023). The targets of an image are scaled so that its best query's is 1, as in the
    published code; its other half is the class cost `position_modulated` of the matching.
    """

    name: Literal["position_supervised"] = "position_supervised"
    alpha: Probability = 0.25  # weight of objects; that of the background is 1 - alpha
    gamma: SmoothExponent = 2.0  # how much predictions near their targets count less
    power: Exponent = 2.0  # of the IoU in the target

    def loss(self, matched: Matched, config: LossConfig) -> Tensor:
        """alpha |t - p|^gamma (-t log p - (1 - t) log(1 - p)) at objects, t = q^power / its maximum in the image;
        -(1 - alpha) p^gamma log(1 - p) elsewhere.
        """
        probability, position = matched.class_logits.sigmoid(), matched.iou() ** self.power
        best = position.new_zeros(len(matched.class_logits)).scatter_reduce(0, matched.image_index, position, "amax")
        targets = matched.at_classes(position / best[matched.image_index].clamp(min=1e-8))
        balance = self.alpha * matched.class_targets + (1 - self.alpha) * (1 - matched.class_targets)
        missed = (targets - probability).abs() ** self.gamma
        return balance * missed * cross_entropy(matched.class_logits, targets)


@classification_loss
@settings("loss.classification")
class MatchabilityAware:
    """MAL (DEIM, Huang et al., 2024). The factor of the background has no gradient, as in the published code."""

    name: Literal["matchability_aware"] = "matchability_aware"
    gamma: Exponent = 1.5  # of the IoU in the target; and how much easy background counts less

    def loss(self, matched: Matched, config: LossConfig) -> Tensor:
        """-t log p - (1 - t) log(1 - p) at objects, t = q^gamma; -p^gamma log(1 - p) elsewhere."""
        targets = matched.at_classes(matched.iou() ** self.gamma)
        background = matched.class_logits.detach().sigmoid() ** self.gamma * (1 - matched.class_targets)
        return (matched.class_targets + background) * cross_entropy(matched.class_logits, targets)
