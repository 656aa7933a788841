"""What goes into one attention call and what its backward pass returns: the arguments of every backend."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from litedetr.kernels.points import SamplingPoints

Score = Literal["deformable", "key_aware_shared", "key_aware"]


@dataclass(frozen=True)
class Inputs:
    """The arguments of one call."""

    query: Tensor | None  # (B, Q, M, D), of key-aware attention
    key: Tensor | None  # (B, S, M, D); None: the values are the keys, or the logits are given
    value: Tensor  # (B, S, M, D)
    logits: Tensor | None  # (B, Q, M, L * P), of deformable attention
    points: SamplingPoints  # where every query samples

    @property
    def score(self) -> Score:
        """Where attention weights come from; the names are those of the detector's settings."""
        if self.logits is not None:
            return "deformable"
        return "key_aware_shared" if self.key is None else "key_aware"

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """The inputs that have gradients, in the order of `Gradients`."""
        return self.query, self.key, self.value, self.logits, self.points.reference, self.points.offsets

    def map(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        """The same call with other tensors."""
        query, key, value, logits, reference, offsets = (None if x is None else change(x) for x in self.tensors)
        return Inputs(query, key, value, logits, replace(self.points, reference=reference, offsets=offsets))

    def of_queries(self, part: slice) -> Inputs:
        """The call of some queries alone."""
        query, logits = (None if x is None else x[:, part] for x in (self.query, self.logits))
        reference, offsets = (x[:, part] for x in (self.points.reference, self.points.offsets))
        points = replace(self.points, reference=reference, offsets=offsets, query_shapes=None)
        return replace(self, query=query, logits=logits, points=points)


@dataclass(frozen=True)
class Saved:
    """What the forward pass leaves to the backward pass."""

    out: Tensor  # (B, Q, M, D) in the dtype of the values
    log_sum_exp: Tensor  # (B, Q, M) of the scores, in fp32 or fp64; or empty


@dataclass(frozen=True)
class Gradients:
    """One for each of `Inputs.tensors`, in its shape and dtype; None if the input is."""

    query: Tensor | None  # (B, Q, M, D)
    key: Tensor | None  # (B, S, M, D)
    value: Tensor  # (B, S, M, D)
    logits: Tensor | None  # (B, Q, M, L * P)
    reference: Tensor | None  # (B, Q, L, 2 | 4); None also if it is not wanted
    offsets: Tensor  # (B, Q, M, L, P, 2)

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        return self.query, self.key, self.value, self.logits, self.reference, self.offsets


def full_precision(value: Tensor) -> AbstractContextManager[object]:
    """Autocast off: backends choose the precision of what they compute, and it would still lower their products."""
    return nullcontext() if autocast_dtype(value) is None else torch.autocast(value.device.type, enabled=False)


def autocast_dtype(value: Tensor) -> torch.dtype | None:
    """What autocast asks for on the device of `value`, None if it is off."""
    if value.is_meta:  # which autocast does not know
        return None
    kind = value.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
