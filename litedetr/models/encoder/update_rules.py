"""The update rules by name, the values of `encoder.update`; each is the class of the encoder's blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, TypeVar

from torch import nn

from litedetr.models.encoder.token_group import TokenGroup
from litedetr.structures import FeaturePyramid

# The settings of `encoder` that not every rule takes.
NUMBERS = ("num_high_levels", "num_high_layers", "num_blocks", "num_layers")  # a rule that takes one needs it
OPTIONS = ("low_feedforward", "low_level_update")


class EncoderBlock(nn.Module):
    """Base of all blocks. A subclass with `@update_rule(name)` is what `encoder.update: name` means.

    It is made from a DetectorConfig. Its layers are children, so that they are compiled, counted and saved.
    """

    takes: ClassVar[tuple[str, ...]]  # of NUMBERS and OPTIONS; errors reject the others

    def forward(self, pyramid: FeaturePyramid, low: TokenGroup, high: TokenGroup) -> FeaturePyramid:
        """Update the tokens as the rule says.

        pyramid: tokens (B, S, C) of all levels, fine to coarse.
        low: the low-level tokens, those of the fine levels; none with a rule that does not take `num_high_levels`.
        high: the high-level tokens, those of the coarse levels.
        Returns the pyramid with updated tokens, of the same shape.
        """
        raise NotImplementedError


UPDATE_RULES: dict[str, type[EncoderBlock]] = {}
Block = TypeVar("Block", bound=type[EncoderBlock])


def update_rule(name: str) -> Callable[[Block], Block]:
    """Make the decorated class the rule `name`."""

    def register(block: Block) -> Block:
        unknown = set(block.takes) - {*NUMBERS, *OPTIONS}
        if unknown:
            raise ValueError(f"{block.__name__}.takes: expected some of {NUMBERS + OPTIONS}, got {sorted(unknown)}")
        UPDATE_RULES[name] = block
        return block

    return register
