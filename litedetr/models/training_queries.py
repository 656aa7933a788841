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
    """What the decoder asks of a group of training queries: denoising (DINO) or one-to-many (H-DETR).

    Groups do not see each other, and the detector's own queries see none of them.
    """

    queries: Queries
    sees_own: bool  # whether they attend to the detector's own queries too

    def __len__(self) -> int:
        return self.queries.content.shape[1]

    @abstractmethod
    def attention_mask(self) -> Tensor:
        """(B or 1, Q, Q) bool, True where query i of the group may attend to query j of it."""

    @abstractmethod
    def add_to(self, output: DetectorOutput, layers: tuple[Predictions, ...]) -> DetectorOutput:
        """`output` with what every decoder layer predicts of these queries."""


@dataclass(frozen=True)
class JointQueries:
    """What the decoder decodes: the groups of training queries, if any, then the detector's own."""

    own: Queries
    training: tuple[TrainingQueries, ...] = ()

    def joined(self) -> Queries:
        """All of them as one (B, Q, ...)."""
        if not self.training:
            return self.own
        parts, dtype = [*(group.queries for group in self.training), self.own], self.own.reference_logit.dtype
        return Queries(
            torch.cat([part.content for part in parts], dim=1),
            torch.cat([part.reference_logit.to(dtype) for part in parts], dim=1),
            self._valid(),
            None if self.own.position is None else torch.cat([part.position for part in parts], dim=1),
        )

    def attention_mask(self) -> Tensor | None:
        """(B or 1, Q, Q) bool, True where joint query i may attend to j; None: everywhere.

        For padded images there is always a mask: only the device knows whether a query fell on padding.
        """
        mask = self._between_groups() if self.training else None
        valid = self._valid()
        if valid is None:
            return mask
        allowed = valid[:, None, :] | torch.eye(valid.shape[1], dtype=torch.bool, device=valid.device)
        return allowed if mask is None else allowed & mask

    def split(self, layers: Sequence[Predictions]) -> DetectorOutput:
        """The joint predictions of every layer, as those of the detector and those of the training queries."""
        *of_groups, of_detector = zip(*(self._parts(layer) for layer in layers), strict=True)
        output = DetectorOutput(tuple(silenced(layer, self.own.valid) for layer in of_detector))
        for group, of_group in zip(self.training, of_groups, strict=True):
            output = group.add_to(output, of_group)
        return output

    def _parts(self, layer: Predictions) -> list[Predictions]:
        """The joint predictions of a layer, by group, those of the detector last."""
        parts = []
        for group in self.training:
            part, layer = layer.split(len(group))
            parts.append(part)
        return [*parts, layer]

    def _between_groups(self) -> Tensor:
        """(B or 1, Q, Q) bool: each group attends to itself, and to the detector's queries if it sees them."""
        masks, num_training = [group.attention_mask() for group in self.training], sum(map(len, self.training))
        total = num_training + self.own.content.shape[1]
        joint = masks[0].new_zeros(max(map(len, masks)), total, total)
        joint[:, num_training:, num_training:] = True
        start = 0
        for group, mask in zip(self.training, masks, strict=True):
            rows = slice(start, start + len(group))
            joint[:, rows, rows] = mask
            joint[:, rows, num_training:] = group.sees_own
            start = rows.stop
        return joint

    def _valid(self) -> Tensor | None:
        """(B, Q) bool, False on padding; None if no image is padded."""
        if self.own.valid is None or not self.training:
            return self.own.valid
        return torch.cat([*(group.queries.valid for group in self.training), self.own.valid], dim=1)


def silenced(predictions: Predictions, valid: Tensor | None) -> Predictions:
    """Set the class logits of queries that fell on padding so low that they count as background."""
    return replace(predictions, class_logits=silence(predictions.class_logits, valid), valid=valid)
