"""The update rules by name, the values of `encoder.update`; each is the class of the encoder's blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, TypeVar

from torch import nn

from litedetr.models.encoder.token_group import TokenGroup
from litedetr.registry import Registry
from litedetr.structures import FeaturePyramid

# The settings of `encoder` that not every rule takes.
REQUIRED = ("num_high_levels", "num_high_layers", "num_blocks", "num_layers")  # a rule that takes one needs it
OPTIONAL = ("low_feedforward", "low_level_update")


class EncoderBlock(nn.Module):
    """Base of all blocks. A subclass with `@update_rule(name)` is what `encoder.update: name` means.

    It is made from a DetectorConfig. Its layers are children, so that they are compiled, counted and saved.
    """

    takes: ClassVar[tuple[str, ...]]  # of REQUIRED and OPTIONAL; errors reject the others

    def forward(self, pyramid: FeaturePyramid, low: TokenGroup, high: TokenGroup) -> FeaturePyramid:
        """Update the tokens as the rule says.

        pyramid: tokens (B, S, C) of all levels, fine to coarse.
        low: which tokens are low-level, those of the fine levels; none if the rule does not take `num_high_levels`.
        high: which tokens are high-level, those of the coarse levels.
        Returns the pyramid with updated tokens, of the same shape.
        """
        raise NotImplementedError


UPDATE_RULES: Registry[type[EncoderBlock]] = Registry("update rule")
Block = TypeVar("Block", bound=type[EncoderBlock])


def update_rule(name: str) -> Callable[[Block], Block]:
    """Make the decorated subclass of EncoderBlock the rule `name`."""

    def register(block: Block) -> Block:
        takes = getattr(block, "takes", None)
        if not isinstance(takes, tuple) or not set(takes) <= {*REQUIRED, *OPTIONAL}:
            raise ValueError(
                f"{block.__name__}.takes: expected a tuple with some of {REQUIRED + OPTIONAL}, got {takes}"
            )
        return UPDATE_RULES.register(name, block)

    return register
