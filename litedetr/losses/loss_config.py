"""Weights of the matching cost and of the loss."""

from __future__ import annotations

from dataclasses import dataclass, field

from litedetr.settings import require, typed

MOST = 1e6  # beyond it, sums in single precision overflow or lose the other terms


@dataclass(frozen=True)
@typed
class Terms:
    """One weight each for classes, L1 distance and GIoU."""

    classes: float
    l1: float
    giou: float


@dataclass(frozen=True)
@typed
class LossConfig:
    """cost: of the Hungarian matching. weights: of the loss. focal_alpha, focal_gamma: Lin et al., 2017.

    one_to_many: weight of the losses of one-to-many queries beside the others (H-DETR, lambda).
    """

    cost: Terms = field(default_factory=lambda: Terms(2.0, 5.0, 2.0))
    weights: Terms = field(default_factory=lambda: Terms(1.0, 5.0, 2.0))
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    one_to_many: float = 1.0

    def __post_init__(self) -> None:
        for part, terms in (("cost", self.cost), ("weights", self.weights)):
            for name, value in vars(terms).items():
                require(0 <= value <= MOST, f"loss.{part}.{name}", f"a number in [0, {MOST:g}]", value)
        require(0 <= self.focal_alpha <= 1, "loss.focal_alpha", "a number in [0, 1]", self.focal_alpha)
        for name in ("focal_gamma", "one_to_many"):
            value = getattr(self, name)
            require(0 <= value <= MOST, f"loss.{name}", f"a number in [0, {MOST:g}]", value)
