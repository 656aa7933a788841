"""The training loss and its parts: which branch of the detector, which layer, which term."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import NamedTuple

from torch import Tensor


class Branch(Enum):
    """Predictions that are supervised together; the values are the names in a run's files."""

    DECODER = "decoder"
    PROPOSALS = "proposals"
    ONE_TO_MANY = "one_to_many"
    DENOISING = "denoising"


class LossName(NamedTuple):
    """Which part of the loss."""

    branch: Branch
    layer: int
    term: str


@dataclass(frozen=True)
class LossPart:
    """One term of the loss of one layer."""

    branch: Branch
    layer: int  # of the decoder, from 0; proposals have only layer 0
    term: str  # a key of litedetr.losses.terms.TERMS
    value: Tensor | float  # unweighted; divided by the number of objects

    @property
    def name(self) -> LossName:
        """Which part it is, without its value."""
        return LossName(self.branch, self.layer, self.term)


@dataclass(frozen=True)
class Losses:
    """The loss of a batch, or of one of its micro-batches."""

    total: Tensor  # the weighted sum of the parts, a scalar
    parts: tuple[LossPart, ...]  # detached
    has_finite_costs: bool  # of the matching; otherwise predictions are NaN or infinite

    def __add__(self, other: Losses) -> Losses:
        """Of two micro-batches of one batch, whose losses have the same parts."""
        values = [a.value + b.value for a, b in zip(self.parts, other.parts, strict=True)]
        are_finite = self.has_finite_costs and other.has_finite_costs
        return Losses(self.total + other.total, with_values(self.parts, values), are_finite)

    def detached(self) -> Losses:
        return replace(self, total=self.total.detach())


def with_values(parts: Sequence[LossPart], values: Iterable[Tensor | float]) -> tuple[LossPart, ...]:
    """The same parts with other values, one for each."""
    return tuple(replace(part, value=value) for part, value in zip(parts, values, strict=True))


def by_branch(parts: Iterable[LossPart]) -> dict[str, dict[str, list[float]]]:
    """As a run's metrics.jsonl has them: {branch: {term: [values from the first layer to the last]}}."""
    mapping: dict[str, dict[str, list[float]]] = {}
    for part in sorted(parts, key=lambda part: part.layer):
        mapping.setdefault(part.branch.value, {}).setdefault(part.term, []).append(part.value)
    return mapping


def parts_of(mapping: Mapping[str, Mapping[str, Sequence[float]]]) -> list[LossPart]:
    """The inverse of `by_branch`."""
    return [
        LossPart(Branch(branch), layer, term, value)
        for branch, terms in mapping.items()
        for term, values in terms.items()
        for layer, value in enumerate(values)
    ]
