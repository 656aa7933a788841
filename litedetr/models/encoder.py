"""The interleaved multi-scale encoder (Lite DETR, section 3.3, Fig. 3) and the full one it is compared with.

High-level tokens are those of the coarse levels (few), low-level tokens those of the fine ones (most).

    sequential   A times: F_H <- layer(F_H, F_L + F_H)      then: F_L <- layer(F_L, F_L + F_H)       (Eqs. 1 and 2)
    joint        A - 1 times: F_H <- layer(F_H, F_L + F_H)  then: F_L, F_H <- layer(both, F_L + F_H)  (published code)
    full         F_L, F_H <- layer(both, F_L + F_H)                                                   (Deformable DETR)

Tokens run from high resolution to low, so low-level tokens come first.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from litedetr.models.attention import MultiScaleAttention, reference_points
from litedetr.models.detector_config import DetectorConfig, EncoderConfig
from litedetr.models.linear import Linear
from litedetr.models.recompute import run
from litedetr.structures import FeaturePyramid


@dataclass(frozen=True)
class TokenGroup:
    """The tokens that a layer updates: a slice of the pyramid's, their reference points (B, Q, L, 2), their levels'
    (H, W).
    """

    tokens: slice
    reference: Tensor
    shapes: tuple[tuple[int, int], ...]

    @classmethod
    def of_levels(cls, pyramid: FeaturePyramid, first: int, last: int) -> TokenGroup:
        sizes = pyramid.level_sizes
        tokens = slice(sum(sizes[:first]), sum(sizes[:last]))
        return cls(tokens, reference_points(pyramid, first, last), pyramid.shapes[first:last])


class FeedForward(nn.Module):
    """Linear, ReLU, linear, residual, norm; dropout after both linears."""

    def __init__(self, channels: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear1 = Linear(channels, hidden)
        self.linear2 = Linear(hidden, channels)
        self.norm = nn.LayerNorm(channels)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.dropout(F.relu_(self.linear1(x)))  # in place: the widest tensor of a layer
        return self.norm(x + self.dropout(self.linear2(hidden)))


class EncoderLayer(nn.Module):
    """Attention of a token group to the whole pyramid, then a feed-forward (post-norm)."""

    def __init__(self, attention: MultiScaleAttention, channels: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention = attention
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(channels)
        self.feedforward = FeedForward(channels, hidden, dropout)

    def forward(self, pyramid: FeaturePyramid, group: TokenGroup) -> Tensor:
        """Returns only the updated tokens of the group, (B, Q, C)."""
        return self.feedforward(self.attend(pyramid, group))

    def attend(self, pyramid: FeaturePyramid, group: TokenGroup) -> Tensor:
        tokens, position = pyramid.tokens[:, group.tokens], pyramid.position[:, group.tokens]
        attended = self.attention(tokens + position, group.reference, pyramid, group.shapes)
        return self.norm(tokens + self.dropout(attended))


class JointLayer(EncoderLayer):
    """One attention for all tokens; low-level ones get a narrow feed-forward of their own (published code)."""

    def __init__(
        self, attention: MultiScaleAttention, channels: int, hidden: int, low_hidden: int, dropout: float
    ) -> None:
        super().__init__(attention, channels, hidden, dropout)
        self.low_feedforward = FeedForward(channels, low_hidden, dropout)

    def forward(self, pyramid: FeaturePyramid, group: TokenGroup, num_low: int) -> Tensor:
        tokens = self.attend(pyramid, group)
        return torch.cat([self.low_feedforward(tokens[:, :num_low]), self.feedforward(tokens[:, num_low:])], dim=1)


class _Encoder(nn.Module):
    """Base of both encoders: applies a layer to a group of tokens, with activation checkpointing if configured."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.activation_checkpointing = config.activation_checkpointing

    def _run(self, layer: nn.Module, pyramid: FeaturePyramid, *args: object) -> Tensor:
        return run(layer, pyramid, *args, recompute=self.activation_checkpointing)

    def _update(self, layer: nn.Module, pyramid: FeaturePyramid, group: TokenGroup) -> FeaturePyramid:
        tokens = pyramid.tokens
        before, after = tokens[:, : group.tokens.start], tokens[:, group.tokens.stop :]
        return pyramid.with_tokens(torch.cat([before, self._run(layer, pyramid, group), after], dim=1))


class FullEncoder(_Encoder):
    """forward(pyramid) -> pyramid: every layer updates all tokens (Deformable DETR, DINO)."""

    def __init__(self, config: EncoderConfig, channels: int, make_attention) -> None:
        super().__init__(config)
        self.layers = nn.ModuleList(
            EncoderLayer(make_attention(), channels, config.feedforward, config.dropout)
            for _ in range(config.num_layers)
        )

    def forward(self, pyramid: FeaturePyramid) -> FeaturePyramid:
        everything = TokenGroup.of_levels(pyramid, 0, len(pyramid.shapes))
        for layer in self.layers:
            pyramid = self._update(layer, pyramid, everything)
        return pyramid


class SequentialBlock(nn.Module):
    """A high-level layers and one low-level layer, or none without `low_level_update`."""

    def __init__(self, config: EncoderConfig, channels: int, make_attention) -> None:
        super().__init__()
        self.high_layers = nn.ModuleList(
            EncoderLayer(make_attention(), channels, config.feedforward, config.dropout)
            for _ in range(config.num_high_layers)
        )
        if config.low_level_update:
            low_hidden = config.low_feedforward or channels
            self.low_layer = EncoderLayer(make_attention(), channels, low_hidden, config.dropout)


class JointBlock(nn.Module):
    """A - 1 high-level layers and one layer for all tokens."""

    def __init__(self, config: EncoderConfig, channels: int, make_attention) -> None:
        super().__init__()
        self.high_layers = nn.ModuleList(
            EncoderLayer(make_attention(), channels, config.feedforward, config.dropout)
            for _ in range(config.num_high_layers - 1)
        )
        low_hidden = config.low_feedforward or channels
        self.joint_layer = JointLayer(make_attention(), channels, config.feedforward, low_hidden, config.dropout)


class InterleavedEncoder(_Encoder):
    """forward(pyramid) -> pyramid: B blocks of A high-level updates and one low-level update.

    Without `low_level_update` the result has only the high levels: nothing updates the low-level tokens, which serve as
    keys and values of the high-level updates.
    """

    def __init__(self, config: EncoderConfig, channels: int, make_attention) -> None:
        super().__init__(config)
        block = {"sequential": SequentialBlock, "joint": JointBlock}[config.update]
        self.num_high_levels = config.num_high_levels
        self.low_level_update = config.low_level_update
        self.blocks = nn.ModuleList(block(config, channels, make_attention) for _ in range(config.num_blocks))

    def forward(self, pyramid: FeaturePyramid) -> FeaturePyramid:
        num_levels = len(pyramid.shapes)
        first_high = num_levels - self.num_high_levels
        low = TokenGroup.of_levels(pyramid, 0, first_high)
        high = TokenGroup.of_levels(pyramid, first_high, num_levels)
        for block in self.blocks:
            for layer in block.high_layers:
                pyramid = self._update(layer, pyramid, high)
            if self.low_level_update:
                pyramid = self._update_low(block, pyramid, low, high)
        return pyramid if self.low_level_update else pyramid.from_level(first_high)

    def _update_low(
        self, block: nn.Module, pyramid: FeaturePyramid, low: TokenGroup, high: TokenGroup
    ) -> FeaturePyramid:
        if isinstance(block, SequentialBlock):
            return self._update(block.low_layer, pyramid, low)
        reference = torch.cat([low.reference, high.reference], dim=1)
        both = TokenGroup(slice(0, high.tokens.stop), reference, low.shapes + high.shapes)
        return pyramid.with_tokens(self._run(block.joint_layer, pyramid, both, low.tokens.stop))


def build_encoder(config: DetectorConfig) -> nn.Module:
    """The encoder that `config.encoder.update` names, a module FeaturePyramid -> FeaturePyramid.

    Every layer makes its own attention; another kind of encoder needs a branch here and a value of `update`.
    """
    channels, attention = config.neck.channels, config.attention

    def make_attention() -> MultiScaleAttention:
        return MultiScaleAttention(attention.encoder, channels, config.neck.num_levels, attention)

    encoder = FullEncoder if config.encoder.update == "full" else InterleavedEncoder
    return encoder(config.encoder, channels, make_attention)
