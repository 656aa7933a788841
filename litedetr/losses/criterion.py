"""The set-prediction loss: every decoder layer, the proposals, and the denoising or the one-to-many part."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from litedetr.boxes import cxcywh_to_xyxy, generalized_iou
from litedetr.losses.focal import focal_loss
from litedetr.losses.loss_config import LossConfig
from litedetr.losses.matcher import Assignment, Group, assign_denoising, match
from litedetr.losses.readout import Readout, read
from litedetr.structures import DenoisingOutput, DetectorOutput, Predictions, TargetBatch


@dataclass(frozen=True)
class Losses:
    """total: the weighted sum, a scalar. parts: unweighted and detached, `class`, `l1` and `giou` of the last layer,
    with suffix `_0`, `_1`, ... of the layers before, `_proposals`, `_denoising_0`, ... and `_one_to_many_0`, ....
    """

    total: Tensor
    parts: dict[str, Tensor]


class Criterion:
    """criterion(output, targets) -> Losses.

    Every term is a sum over the batch divided by `targets.num_boxes`, so the losses of micro-batches that carry the
    large batch's number add up to the large batch's loss.
    """

    def __init__(self, config: LossConfig) -> None:
        self.config = config

    def read(self, output: DetectorOutput, targets: TargetBatch) -> Readout:
        """Costs of the matching and whether predictions are finite, on the host. Only this waits for the device."""
        return read(output, self._groups(output, targets), self.config)

    def __call__(self, output: DetectorOutput, targets: TargetBatch, readout: Readout | None = None) -> Losses:
        """The loss of `output`. readout: of `read` with the same arguments; None: it is made here."""
        readout = self.read(output, targets) if readout is None else readout
        terms: dict[str, Tensor] = {}
        for known, assignments in zip(readout.costs, match(readout.costs), strict=True):
            normaliser = targets.num_boxes * known.group.repeats
            for (suffix, layer), pairs in zip(known.group.layers.items(), assignments, strict=True):
                self._add(terms, suffix, self._terms(layer, pairs, normaliser))
        if output.denoising is not None:
            for i, part in enumerate(self._denoising(output.denoising, targets)):
                self._add(terms, f"_denoising_{i}", part)
        total = torch.stack([self._weight(name) * value for name, value in terms.items()]).sum()
        return Losses(total, {name: value.detach() for name, value in terms.items()})

    @staticmethod
    def _groups(output: DetectorOutput, targets: TargetBatch) -> list[Group]:
        """What is matched: layers and proposals, then proposals that know no class, then one-to-many queries."""
        layers = {f"_{i}": layer for i, layer in enumerate(output.layers[:-1])} | {"": output.predictions}
        proposals = output.proposals
        if proposals is not None and not proposals.foreground:
            layers["_proposals"] = proposals
        groups = [Group(layers, targets)]
        if proposals is not None and proposals.foreground:
            groups.append(Group({"_proposals": proposals}, targets.without_classes()))
        if output.one_to_many is not None:  # every object is there several times, in the normaliser too (H-DETR, 3.2)
            layers = {f"_one_to_many_{i}": layer for i, layer in enumerate(output.one_to_many.layers)}
            groups.append(Group(layers, targets, output.one_to_many.num_repeats))
        return [replace(group, layers=_full_precision_of(group.layers)) for group in groups]

    def _denoising(self, denoising: DenoisingOutput, targets: TargetBatch) -> list[dict[str, Tensor]]:
        """Padding slots are left out, so that an image's loss does not depend on its batch."""
        num_slots = denoising.layers[0].boxes.shape[1] // (2 * denoising.num_groups)
        assignment, real = assign_denoising(targets, denoising.num_groups, num_slots)
        normaliser = targets.num_boxes * denoising.num_groups
        return [self._terms(_full_precision(layer), assignment, normaliser, real) for layer in denoising.layers]

    def _terms(
        self, predictions: Predictions, pairs: Assignment, normaliser: float, real: Tensor | None = None
    ) -> dict[str, Tensor]:
        logits = predictions.class_logits
        # A number in the place of this tensor would be copied to the device, and waited for.
        one = logits.new_ones(())
        wanted = torch.zeros_like(logits).index_put_((pairs.image, pairs.query, pairs.labels), one)
        classes = focal_loss(logits, wanted, self.config.focal_alpha, self.config.focal_gamma)
        if real is not None:
            classes = classes * real.unsqueeze(-1)
        boxes, target_boxes = predictions.boxes[pairs.image, pairs.query], pairs.boxes.to(predictions.boxes.dtype)
        overlap = generalized_iou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(target_boxes))
        sums = {"class": classes.sum(), "l1": (boxes - target_boxes).abs().sum(), "giou": (1 - overlap).sum()}
        return {name: value / normaliser for name, value in sums.items()}

    @staticmethod
    def _add(terms: dict[str, Tensor], suffix: str, part: dict[str, Tensor]) -> None:
        terms.update({name + suffix: value for name, value in part.items()})

    def _weight(self, name: str) -> float:
        weights = self.config.weights
        term = {"class": weights.classes, "l1": weights.l1, "giou": weights.giou}[name.split("_")[0]]
        return term * self.config.one_to_many if "_one_to_many_" in name else term


def _full_precision_of(layers: dict[str, Predictions]) -> dict[str, Predictions]:
    return {suffix: _full_precision(layer) for suffix, layer in layers.items()}


def _full_precision(predictions: Predictions) -> Predictions:
    """At least fp32: sums over thousands of queries overflow or round in half precision."""
    logits, boxes = predictions.class_logits, predictions.boxes
    logits, boxes = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (logits, boxes))
    return replace(predictions, class_logits=logits, boxes=boxes)
