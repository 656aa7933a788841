"""The detector's own queries and those of training, decoded together; masks keep the former from seeing the latter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor

from litedetr.models.denoising import group_mask
from litedetr.models.hybrid import separating_mask
from litedetr.models.proposals import silence
from litedetr.structures import (
    DenoisingOutput,
    DenoisingQueries,
    DetectorOutput,
    OneToManyOutput,
    OneToManyQueries,
    Predictions,
    Queries,
)

TrainingQueries: TypeAlias = DenoisingQueries | OneToManyQueries


def join(queries: Queries, training: TrainingQueries | None) -> Queries:
    """The queries of training, if any, then the detector's."""
    if training is None:
        return queries
    first = training.queries
    position = None if queries.position is None else torch.cat([first.position, queries.position], dim=1)
    return Queries(
        torch.cat([first.content, queries.content], dim=1),
        torch.cat([first.reference_logit.to(queries.reference_logit.dtype), queries.reference_logit], dim=1),
        _joint_valid(queries, training),
        position,
    )


def attention_mask(queries: Queries, training: TrainingQueries | None) -> Tensor | None:
    """(B or 1, Q, Q) bool, True where joint query i may attend to j; None: everywhere.

    For padded images there is always a mask: only the device knows whether a query fell on padding.
    """
    mask = None if training is None else _training_mask(training, queries.content.shape[1])
    if queries.valid is None:
        return mask
    valid = _joint_valid(queries, training)
    allowed = valid[:, None, :] | torch.eye(valid.shape[1], dtype=torch.bool, device=valid.device)
    return allowed if mask is None else allowed & mask


def split(layers: Sequence[Predictions], queries: Queries, training: TrainingQueries | None) -> DetectorOutput:
    """Split the joint predictions of every layer into those of the detector and those of the training queries."""
    num_training = 0 if training is None else len(training)
    parts = [layer.split(num_training) for layer in layers]
    output = DetectorOutput(tuple(_silenced(own, queries.valid) for _, own in parts))
    first = tuple(first for first, _ in parts)
    if isinstance(training, DenoisingQueries):
        return replace(output, denoising=DenoisingOutput(first, training.num_groups))
    if isinstance(training, OneToManyQueries):
        silenced = tuple(_silenced(layer, training.queries.valid) for layer in first)
        return replace(output, one_to_many=OneToManyOutput(silenced, training.num_repeats))
    return output


def _training_mask(training: TrainingQueries, num_queries: int) -> Tensor:
    if isinstance(training, DenoisingQueries):
        return group_mask(training, num_queries)
    return separating_mask(training, num_queries)


def _joint_valid(queries: Queries, training: TrainingQueries | None) -> Tensor | None:
    if queries.valid is None or training is None:
        return queries.valid
    first = training.valid if isinstance(training, DenoisingQueries) else training.queries.valid
    return torch.cat([first, queries.valid], dim=1)


def _silenced(predictions: Predictions, valid: Tensor | None) -> Predictions:
    """Set the class logits of queries that fell on padding so low that they count as background."""
    return replace(predictions, class_logits=silence(predictions.class_logits, valid), valid=valid)
