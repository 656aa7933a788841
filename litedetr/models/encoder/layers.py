"""The layers of the encoder's blocks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from litedetr.models.attention import MultiScaleAttention
from litedetr.models.detector_config import DetectorConfig
from litedetr.models.encoder.token_group import TokenGroup
from litedetr.models.feedforward import FeedForward
from litedetr.models.recompute import run
from litedetr.structures import FeaturePyramid


class EncoderLayer(nn.Module):
    """Attention of a token group to the whole pyramid, then a feed-forward (post-norm).

    hidden: width of the feed-forward.
    """

    def __init__(self, config: DetectorConfig, hidden: int) -> None:
        super().__init__()
        channels, levels, dropout = config.neck.channels, config.neck.num_levels, config.encoder.dropout
        self.attention = MultiScaleAttention(config.attention.encoder, channels, levels, config.attention)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(channels)
        self.feedforward = FeedForward(channels, hidden, dropout)
        self.recompute = config.encoder.activation_checkpointing

    def update(self, pyramid: FeaturePyramid, group: TokenGroup) -> FeaturePyramid:
        """The pyramid with the tokens of `group` updated by `forward`.

        Blocks call this and not the layer: it applies activation checkpointing, of which `forward` stays free, because
        that is what gets compiled.
        """
        # sliced before the layer runs: autograd adds up a token's gradients in the order of its uses
        before, after = pyramid.tokens[:, : group.span.start], pyramid.tokens[:, group.span.stop :]
        updated = run(self, pyramid, group, recompute=self.recompute)
        return pyramid.with_tokens(torch.cat([before, updated, after], dim=1))

    def forward(self, pyramid: FeaturePyramid, group: TokenGroup) -> Tensor:
        """feedforward(norm(x + attention(x, F))), x the group's tokens and F the pyramid.

        pyramid: tokens (B, S, C) of all levels, which the group attends to.
        group: the Q tokens to update.
        Returns their new values, (B, Q, C).
        """
        return self.feedforward(self.attend(pyramid, group))

    def attend(self, pyramid: FeaturePyramid, group: TokenGroup) -> Tensor:
        """`forward` without its feed-forward, (B, Q, C)."""
        tokens, position = pyramid.tokens[:, group.span], pyramid.position[:, group.span]
        attended = self.attention(tokens + position, group.reference, pyramid, group.shapes)
        return self.norm(tokens + self.dropout(attended))


class JointLayer(EncoderLayer):
    """One attention for all tokens; the low-level ones have a narrow feed-forward of their own (published code).

    hidden, low_hidden: widths of the feed-forwards of high-level and of low-level tokens.
    """

    def __init__(self, config: DetectorConfig, hidden: int, low_hidden: int) -> None:
        super().__init__(config, hidden)
        self.low_feedforward = FeedForward(config.neck.channels, low_hidden, config.encoder.dropout)

    def update_both(self, pyramid: FeaturePyramid, low: TokenGroup, high: TokenGroup) -> FeaturePyramid:
        """The pyramid with all tokens updated by `forward`; what a block calls."""
        return pyramid.with_tokens(run(self, pyramid, low, high, recompute=self.recompute))

    def forward(self, pyramid: FeaturePyramid, low: TokenGroup, high: TokenGroup) -> Tensor:
        """feedforward(norm(x + attention(x, F))) of all tokens x, with another feed-forward for the low-level ones.

        pyramid: tokens (B, S, C) of all levels.
        low: its low-level tokens.
        high: its high-level tokens, which are the rest.
        Returns the new values of all tokens, (B, S, C).
        """
        tokens = self.attend(pyramid, low.joined(high))
        fine, coarse = tokens[:, low.span], tokens[:, high.span]
        return torch.cat([self.low_feedforward(fine), self.feedforward(coarse)], dim=1)
