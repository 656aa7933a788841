"""The set-prediction loss: every decoder layer, the proposals, and what learns beside them."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from litedetr.losses.loss_config import LossConfig
from litedetr.losses.matcher import match
from litedetr.losses.parts import Branch, Losses, LossPart, with_values
from litedetr.losses.supervision import Assignment, Supervision, supervise
from litedetr.losses.terms import TERMS, Matched
from litedetr.structures import DetectorOutput, TargetBatch


class Criterion:
    """The loss that `config` describes."""

    def __init__(self, config: LossConfig) -> None:
        self.config = config

    def __call__(self, output: DetectorOutput, targets: TargetBatch) -> Losses:
        """The weighted sum of all terms of all layers of all branches. Waits for the device once, to match.

        output: what the detector predicts for B images.
        targets: their ground truth. Every term is a sum over the batch divided by `targets.num_boxes`, so the losses of
        micro-batches that carry the large batch's number add up to the large batch's loss.
        """
        supervisions = supervise(output, targets)
        matching = match(supervisions, self.config)
        parts = [part for one in zip(supervisions, matching.assignments, strict=True) for part in self._parts(*one)]
        total = torch.stack([self._weight(part) * part.value for part in parts]).sum()
        return Losses(total, with_values(parts, (part.value.detach() for part in parts)), matching.is_finite)

    def _parts(self, one: Supervision, assignments: list[Assignment]) -> Iterator[LossPart]:
        for layer, (predictions, pairs) in enumerate(zip(one.layers, assignments, strict=True)):
            matched = Matched.of(predictions, pairs, one.in_class_loss)
            for term in self.config.weights:
                value = TERMS[term](matched, self.config)
                if value.ndim != 0:
                    raise ValueError(f"loss term {term}: expected it to return a scalar, got {tuple(value.shape)}")
                yield LossPart(one.branch, layer, term, value / one.normaliser)

    def _weight(self, part: LossPart) -> float:
        weight = self.config.weights[part.term]
        return weight * self.config.one_to_many if part.branch is Branch.ONE_TO_MANY else weight
