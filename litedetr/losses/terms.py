"""The terms of the loss. A new one is a function here and its weight in `loss.weights` (docs/hacking.md).

A term of weight 0 is not trained on, but logged by branch and layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from litedetr.boxes import box_iou, cxcywh_to_xyxy, generalized_iou
from litedetr.losses.supervision import Assignment
from litedetr.registry import Registry
from litedetr.structures import Predictions

if TYPE_CHECKING:
    from litedetr.losses.loss_config import LossConfig


@dataclass(frozen=True)
class Matched:
    """The predictions of one layer beside what they should be. Q queries, of which n have an object; K classes."""

    class_logits: Tensor  # (B, Q, K)
    class_targets: Tensor  # (B, Q, K), 1 at the class of a query's object, 0 elsewhere
    in_class_loss: Tensor | None  # (B, Q) bool, False on padding slots of denoising; None: all queries are in it
    boxes: Tensor  # (n, 4) of the queries with an object, cxcywh relative to the image
    target_boxes: Tensor  # (n, 4) of their objects
    # where they are, for terms with class targets of their own: class_targets[image_index, query_index] is (n, K)
    image_index: Tensor  # (n,) which image of the batch
    query_index: Tensor  # (n,) which query of the image

    @classmethod
    def of(cls, predictions: Predictions, pairs: Assignment, in_class_loss: Tensor | None) -> Matched:
        logits, place = predictions.class_logits, (pairs.image, pairs.query)
        # A number in the place of this tensor would be copied to the device, and waited for.
        one = logits.new_ones(())
        class_targets = torch.zeros_like(logits).index_put_((*place, pairs.labels), one)
        boxes = predictions.boxes[place]
        return cls(logits, class_targets, in_class_loss, boxes, pairs.boxes.to(boxes.dtype), *place)

    def iou(self) -> Tensor:
        """(n,) IoU of each query's box with its object's, without a gradient."""
        return box_iou(cxcywh_to_xyxy(self.boxes.detach()), cxcywh_to_xyxy(self.target_boxes))

    def at_classes(self, values: Tensor) -> Tensor:
        """(B, Q, K) from one value for each pair, (n,): the value at the class of the query's object, 0 elsewhere."""
        of_queries = self.class_targets.new_zeros(self.class_targets.shape[:2])
        of_queries.index_put_((self.image_index, self.query_index), values.to(of_queries.dtype))
        return self.class_targets * of_queries.unsqueeze(-1)

    def sum_over_queries(self, loss: Tensor) -> Tensor:
        """The sum of a loss (B, Q, K) over all queries that are in the class loss."""
        return loss.sum() if self.in_class_loss is None else (loss * self.in_class_loss.unsqueeze(-1)).sum()


Term: TypeAlias = "Callable[[Matched, LossConfig], Tensor]"  # the sum over the batch, a scalar
TERMS: Registry[Term] = Registry("loss term")  # by the name of the function, which is that of its weight


def loss_term(term: Term) -> Term:
    """Decorates a function (Matched, LossConfig) -> sum over the batch: a term of the loss, named as the function."""
    return TERMS.register(term.__name__, term)


@loss_term
def classes(matched: Matched, config: LossConfig) -> Tensor:
    """Every query's class: the loss that `loss.classification` names, the focal loss unless given."""
    return matched.sum_over_queries(config.classification.loss(matched, config))


@loss_term
def l1(matched: Matched, config: LossConfig) -> Tensor:
    """L1 distance of the boxes, in (cx, cy, w, h)."""
    return (matched.boxes - matched.target_boxes).abs().sum()


@loss_term
def giou(matched: Matched, config: LossConfig) -> Tensor:
    """1 - generalised IoU of the boxes (Rezatofighi et al., 2019)."""
    return (1 - generalized_iou(cxcywh_to_xyxy(matched.boxes), cxcywh_to_xyxy(matched.target_boxes))).sum()
