"""The encoder: blocks that update the tokens of the feature pyramid (Lite DETR, Fig. 3)."""

from __future__ import annotations

import torch
from torch import nn

import litedetr.models.encoder.blocks  # noqa: F401  fills UPDATE_RULES
from litedetr.models.detector_config import DetectorConfig
from litedetr.models.encoder.token_group import TokenGroup
from litedetr.models.encoder.update_rules import UPDATE_RULES
from litedetr.structures import FeaturePyramid


class Encoder(nn.Module):
    """B blocks of the update rule `encoder.update`; one of a rule that does not take `num_blocks`."""

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        block = UPDATE_RULES[config.encoder.update]
        self.num_low_levels = config.num_low_levels
        self.low_level_update = config.encoder.low_level_update
        self.blocks = nn.ModuleList(block(config) for _ in range(config.encoder.num_blocks or 1))

    def forward(self, pyramid: FeaturePyramid) -> FeaturePyramid:
        """Section 3.3: each block updates high-level tokens often and low-level tokens rarely.

        pyramid: the neck's, tokens (B, S, C) of L levels, fine to coarse; the first are the low levels.
        Returns it with updated tokens. Without `low_level_update` it has only the high levels, (B, S_high, C): nothing
        updates the low-level tokens, which serve as keys and values.
        """
        low = TokenGroup.of_levels(pyramid, 0, self.num_low_levels)
        high = TokenGroup.of_levels(pyramid, self.num_low_levels, len(pyramid.shapes))
        shape = pyramid.tokens.shape
        for block in self.blocks:
            pyramid = block(pyramid, low, high)
            _require_whole(pyramid, shape, block)
        return pyramid if self.low_level_update else pyramid.from_level(self.num_low_levels)


def _require_whole(pyramid: FeaturePyramid, shape: torch.Size, block: nn.Module) -> None:
    """For those who write a block."""
    found = pyramid.tokens.shape if isinstance(pyramid, FeaturePyramid) else type(pyramid).__name__
    if found != shape:
        raise ValueError(f"{type(block).__name__}: expected it to return a pyramid with tokens {shape}, got {found}")
