"""The blocks of the encoder, one class for each update rule.

F_H are the high-level tokens (of the coarse levels, few), F_L the low-level tokens (of the fine levels, most).

    sequential   A times: F_H <- layer(F_H, F_L + F_H)      then: F_L <- layer(F_L, F_L + F_H)       (Eqs. 1 and 2)
    joint        A - 1 times: F_H <- layer(F_H, F_L + F_H)  then: F_L, F_H <- layer(both, F_L + F_H)  (published code)
    full         num_layers times: F_L, F_H <- layer(both, F_L + F_H)                                 (Deformable DETR)

A rule of your own is one more class here and a file in conf/encoder/ that says `update: <its name>`, a value for each
number in `takes`, and null for the other numbers (docs/hacking.md).
"""

from __future__ import annotations

from torch import nn

from litedetr.models.detector_config import DetectorConfig
from litedetr.models.encoder.layers import EncoderLayer, JointLayer
from litedetr.models.encoder.token_group import TokenGroup
from litedetr.models.encoder.update_rules import EncoderBlock, update_rule
from litedetr.structures import FeaturePyramid


@update_rule("sequential")
class SequentialBlock(EncoderBlock):
    """A updates of the high-level tokens (Eq. 1), then one of the low-level tokens (Eq. 2)."""

    takes = ("num_high_levels", "num_high_layers", "num_blocks", "low_feedforward", "low_level_update")

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.high_layers = high_layers(config, config.encoder.num_high_layers)
        self.low_layer = EncoderLayer(config, low_hidden(config)) if config.encoder.low_level_update else None

    def forward(self, pyramid: FeaturePyramid, low: TokenGroup, high: TokenGroup) -> FeaturePyramid:
        """A times F_H <- layer(F_H, F_L + F_H) (Eq. 1), then F_L <- layer(F_L, F_L + F_H) (Eq. 2).

        Without `low_level_update` only Eq. 1; the low-level tokens are then keys and values that nothing updates.

        pyramid: tokens (B, S, C) of all levels, fine to coarse.
        low: which tokens are F_L, those of the fine levels.
        high: which tokens are F_H, those of the coarse levels.
        Returns the pyramid with updated tokens, of the same shape.
        """
        for layer in self.high_layers:
            pyramid = layer.update(pyramid, high)
        return pyramid if self.low_layer is None else self.low_layer.update(pyramid, low)


@update_rule("joint")
class JointBlock(EncoderBlock):
    """A - 1 updates of the high-level tokens, then one of all tokens (published code)."""

    takes = ("num_high_levels", "num_high_layers", "num_blocks", "low_feedforward")

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.high_layers = high_layers(config, config.encoder.num_high_layers - 1)
        self.joint_layer = JointLayer(config, config.encoder.feedforward, low_hidden(config))

    def forward(self, pyramid: FeaturePyramid, low: TokenGroup, high: TokenGroup) -> FeaturePyramid:
        """A - 1 times F_H <- layer(F_H, F_L + F_H), then F_L, F_H <- layer(F_L + F_H, F_L + F_H).

        The last layer reads the same tokens for both groups, so that F_L sees F_H as the layer before left it.

        pyramid: tokens (B, S, C) of all levels, fine to coarse.
        low: which tokens are F_L, those of the fine levels.
        high: which tokens are F_H, those of the coarse levels.
        Returns the pyramid with updated tokens, of the same shape.
        """
        for layer in self.high_layers:
            pyramid = layer.update(pyramid, high)
        return self.joint_layer.update_both(pyramid, low, high)


@update_rule("full")
class FullBlock(EncoderBlock):
    """`num_layers` updates of all tokens (Deformable DETR, DINO). The encoder has one such block."""

    takes = ("num_layers",)

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.layers = high_layers(config, config.encoder.num_layers)

    def forward(self, pyramid: FeaturePyramid, low: TokenGroup, high: TokenGroup) -> FeaturePyramid:
        """Every layer updates all tokens: F <- layer(F, F), `num_layers` times.

        pyramid: tokens (B, S, C) of all levels, fine to coarse.
        low: no tokens, as the levels are not split.
        high: all tokens.
        Returns the pyramid with updated tokens, of the same shape.
        """
        for layer in self.layers:
            pyramid = layer.update(pyramid, high)
        return pyramid


def low_hidden(config: DetectorConfig) -> int:
    """Hidden width for low-level tokens; C unless `encoder.low_feedforward` says another."""
    return config.encoder.low_feedforward or config.neck.channels


def high_layers(config: DetectorConfig, number: int) -> nn.ModuleList:
    """Layers with the feed-forward of high-level tokens."""
    return nn.ModuleList(EncoderLayer(config, config.encoder.feedforward) for _ in range(number))
