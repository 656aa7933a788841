"""The tokens that a layer of the encoder updates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from litedetr.models.position import reference_points
from litedetr.structures import FeaturePyramid


@dataclass(frozen=True)
class TokenGroup:
    """Which tokens of a pyramid: the Q of some neighbouring levels, none or all. Their values stay in the pyramid."""

    span: slice  # of the pyramid's S tokens: their values are pyramid.tokens[:, span]
    reference: Tensor  # (B, Q, L, 2), their reference points
    shapes: tuple[tuple[int, int], ...]  # (H, W) of their levels

    @classmethod
    def of_levels(cls, pyramid: FeaturePyramid, first: int, last: int) -> TokenGroup:
        """The tokens of the levels [first, last)."""
        sizes = pyramid.level_sizes
        span = slice(sum(sizes[:first]), sum(sizes[:last]))
        return cls(span, reference_points(pyramid, first, last), pyramid.shapes[first:last])

    def joined(self, coarser: TokenGroup) -> TokenGroup:
        """These tokens and those of the group that begins where this one ends."""
        return TokenGroup(
            slice(self.span.start, coarser.span.stop),
            torch.cat([self.reference, coarser.reference], dim=1),
            self.shapes + coarser.shapes,
        )
