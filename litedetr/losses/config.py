"""Weights of the matching cost and of the loss."""

from __future__ import annotations

from dataclasses import dataclass, field

from litedetr.config import require


@dataclass(frozen=True)
class Terms:
    """One weight each for classes, L1 distance and GIoU."""

    classes: float
    l1: float
    giou: float

    def __post_init__(self) -> None:
        for name in ("classes", "l1", "giou"):
            require(getattr(self, name) >= 0, f"loss weight {name}", "a number >= 0", getattr(self, name))


@dataclass(frozen=True)
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
        require(self.one_to_many >= 0, "loss.one_to_many", "a number >= 0", self.one_to_many)
