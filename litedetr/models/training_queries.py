"""Queries that exist only in training, decoded together with the detector's own, which never see them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from litedetr.models.proposals import silence
from litedetr.structures import DetectorOutput, Predictions, Queries


class TrainingQueries(ABC):
    """What the decoder asks of a group of training queries: denoising (DINO) or one-to-many (H-DETR)."""

    queries: Queries

    def __len__(self) -> int:
        return self.queries.content.shape[1]

    @abstractmethod
    def attention_mask(self, num_own: int) -> Tensor:
        """(B or 1, Q, Q) bool, True where query i may attend to j: these queries, then the detector's `num_own`."""

    @abstractmethod
    def add_to(self, output: DetectorOutput, layers: tuple[Predictions, ...]) -> DetectorOutput:
        """`output` with what every decoder layer predicts of these queries."""


@dataclass(frozen=True)
class JointQueries:
    """What the decoder decodes: the training queries, if any, then the detector's own."""

    own: Queries
    training: TrainingQueries | None

    def joined(self) -> Queries:
        """All of them as one (B, Q, ...)."""
        if self.training is None:
            return self.own
        own, first = self.own, self.training.queries
        position = None if own.position is None else torch.cat([first.position, own.position], dim=1)
        return Queries(
            torch.cat([first.content, own.content], dim=1),
            torch.cat([first.reference_logit.to(own.reference_logit.dtype), own.reference_logit], dim=1),
            self._valid(),
            position,
        )

    def attention_mask(self) -> Tensor | None:
        """(B or 1, Q, Q) bool, True where joint query i may attend to j; None: everywhere.

        For padded images there is always a mask: only the device knows whether a query fell on padding.
        """
        mask = None if self.training is None else self.training.attention_mask(self.own.content.shape[1])
        valid = self._valid()
        if valid is None:
            return mask
        allowed = valid[:, None, :] | torch.eye(valid.shape[1], dtype=torch.bool, device=valid.device)
        return allowed if mask is None else allowed & mask

    def split(self, layers: Sequence[Predictions]) -> DetectorOutput:
        """The joint predictions of every layer, as those of the detector and those of the training queries."""
        num_training = 0 if self.training is None else len(self.training)
        of_training, of_detector = zip(*(layer.split(num_training) for layer in layers), strict=True)
        output = DetectorOutput(tuple(silenced(layer, self.own.valid) for layer in of_detector))
        return output if self.training is None else self.training.add_to(output, of_training)

    def _valid(self) -> Tensor | None:
        """(B, Q) bool, False on padding; None if no image is padded."""
        if self.own.valid is None or self.training is None:
            return self.own.valid
        return torch.cat([self.training.queries.valid, self.own.valid], dim=1)


def silenced(predictions: Predictions, valid: Tensor | None) -> Predictions:
    """Set the class logits of queries that fell on padding so low that they count as background."""
    return replace(predictions, class_logits=silence(predictions.class_logits, valid), valid=valid)
