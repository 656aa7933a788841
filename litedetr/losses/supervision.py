"""What the predictions of a detector are trained on: the branches of its output, and the objects that each learns."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from litedetr.losses.parts import Branch
from litedetr.structures import DenoisingOutput, DetectorOutput, Predictions, TargetBatch


@dataclass(frozen=True)
class Assignment:
    """n pairs of a query and an object."""

    image: Tensor  # (n,) index of the image in the batch
    query: Tensor  # (n,) index of the query in the image
    labels: Tensor  # (n,) of the objects
    boxes: Tensor  # (n, 4) of the objects, cxcywh


@dataclass(frozen=True)
class Supervision:
    """The layers of one branch, whose Q queries learn the same objects."""

    branch: Branch
    layers: tuple[Predictions, ...]  # in fp32 or fp64
    targets: TargetBatch
    repeats: int = 1  # how often every object is learned in each layer
    known: Assignment | None = None  # the pairs of every layer; None: Hungarian matching finds those of each
    in_class_loss: Tensor | None = None  # (B, Q) bool; None: all queries

    @property
    def normaliser(self) -> float:
        """What sums over the batch are divided by. It has the repeats too (H-DETR, section 3.2)."""
        return self.targets.num_boxes * self.repeats


def supervise(output: DetectorOutput, targets: TargetBatch) -> list[Supervision]:
    """Every branch of `output` with what it learns: decoder, proposals, one-to-many queries, denoising queries."""
    found = [Supervision(Branch.DECODER, output.layers, targets)]
    if output.proposals is not None:
        learned = targets.without_classes() if output.proposals.foreground else targets
        found.append(Supervision(Branch.PROPOSALS, (output.proposals,), learned))
    if output.one_to_many is not None:
        found.append(
            Supervision(Branch.ONE_TO_MANY, output.one_to_many.layers, targets, output.one_to_many.num_repeats)
        )
    if output.denoising is not None:
        found.append(_denoising(output.denoising, targets))
    return [replace(one, layers=tuple(map(_full_precision, one.layers))) for one in found]


def _denoising(denoising: DenoisingOutput, targets: TargetBatch) -> Supervision:
    """Slots are [group, positive | negative, object]: the n-th positive of each group learns the image's n-th object.

    Padding slots are not in the class loss, so that an image's loss does not depend on its batch.
    """
    num_groups = denoising.num_groups
    num_slots = denoising.layers[0].boxes.shape[1] // (2 * num_groups)  # of one half of a group
    image, place = targets.slots
    _, _, real = targets.padded(num_slots)
    start = torch.arange(num_groups, device=place.device).unsqueeze(1) * 2 * num_slots
    pairs = Assignment(
        image.repeat(num_groups),
        (start + place).flatten(),
        targets.labels.repeat(num_groups),
        targets.boxes.repeat(num_groups, 1),
    )
    return Supervision(
        Branch.DENOISING,
        denoising.layers,
        targets,
        num_groups,
        known=pairs,
        in_class_loss=real.repeat(1, 2 * num_groups),
    )


def _full_precision(predictions: Predictions) -> Predictions:
    """At least fp32: sums over thousands of queries overflow or round in half precision."""
    logits, boxes = predictions.class_logits, predictions.boxes
    logits, boxes = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (logits, boxes))
    return replace(predictions, class_logits=logits, boxes=boxes)


def not_finite(output: DetectorOutput, targets: TargetBatch) -> list[str]:
    """Names of the layers of `output` whose predictions are NaN or infinite. Waits for the device."""
    return [
        f"{one.branch.value.replace('_', '-')} layer {layer}"
        for one in supervise(output, targets)
        for layer, predictions in enumerate(one.layers)
        if not (predictions.class_logits.isfinite().all() and predictions.boxes.isfinite().all())
    ]
