"""What detector a published state dict belongs to, read from its names and shapes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from litedetr.models.backbones.resnet import DEPTHS, Bottleneck
from litedetr.models.detector_config import (
    AttentionConfig,
    AttentionKind,
    BackboneConfig,
    DecoderConfig,
    DenoisingConfig,
    DetectorConfig,
    EncoderConfig,
    NeckConfig,
    QuerySelectionConfig,
)
from litedetr.settings import ConfigError, require
from litedetr.weights.errors import PublishedWeightsError

# No tensor's shape shows these two: every published configuration has 8 heads and group norms of 32 groups.
NUM_HEADS = 8
NORM_GROUPS = 32

BACKBONE = "backbone.0.body."
ENCODER = "transformer.encoder.layers."
DECODER = "transformer.decoder.layers."
# A layer with any of these updates the low-level tokens too, and so ends a block.
LOW_LEVEL_PARTS = ("linear12.", "linear22.", "norm22.")


@dataclass(frozen=True)
class Layout:
    """The detector's configuration, and its number of class logits."""

    config: DetectorConfig
    num_classes: int


def read_layout(state: Mapping[str, Tensor], num_high_levels: int | None) -> Layout:
    """The layout of a published state dict.

    num_high_levels: x of HxLy, which no name or shape shows; None for a full encoder.
    PublishedWeightsError if a tensor that shows the layout is missing, ConfigError if num_high_levels is wrong.
    """
    num_levels, channels = _shape(state, "transformer.level_embed", 2)
    encoder = _encoder(state, num_high_levels, num_levels, channels)
    config = DetectorConfig(
        backbone=_backbone(state),
        neck=NeckConfig(channels, num_levels, NORM_GROUPS),
        encoder=encoder,
        attention=_attention(state, num_levels),
        query_selection=QuerySelectionConfig(_shape(state, "transformer.tgt_embed.weight", 2)[0]),
        denoising=DenoisingConfig(box_noise=0.4 if encoder.update == "full" else 1.0),  # DINO's and Lite-DINO's
        decoder=DecoderConfig(_count(state, DECODER), _shape(state, f"{DECODER}0.linear1.weight", 2)[0]),
        padding="published",
    )
    return Layout(config, _shape(state, "class_embed.0.weight", 2)[0])


def _backbone(state: Mapping[str, Tensor]) -> BackboneConfig:
    """Which ResNet: stages of how many blocks, with three convolutions each or two."""
    depths = tuple(_count(state, f"{BACKBONE}layer{stage}.") for stage in range(1, 5))
    bottleneck = f"{BACKBONE}layer1.0.conv3.weight" in state
    for name, (block, known) in DEPTHS.items():
        if known == depths and (block is Bottleneck) == bottleneck:
            return BackboneConfig(name, width=_shape(state, f"{BACKBONE}conv1.weight", 4)[0])
    kind = "three" if bottleneck else "two"
    raise PublishedWeightsError(
        f"{BACKBONE}: stages of {depths} blocks of {kind} convolutions are none of {', '.join(DEPTHS)}"
    )


def _attention(state: Mapping[str, Tensor], num_levels: int) -> AttentionConfig:
    """The sampling offsets are 2 x heads x levels x points; points follow from the levels and the known heads."""
    name = f"{ENCODER}0.self_attn.sampling_offsets.bias"
    num_offsets = _shape(state, name, 1)[0]
    num_points, rest = divmod(num_offsets, 2 * NUM_HEADS * num_levels)
    if rest or not num_points:
        expected = f"a multiple of {2 * NUM_HEADS * num_levels} (2 x {NUM_HEADS} heads x {num_levels} levels)"
        raise PublishedWeightsError(f"{name}: expected {expected} entries, got {num_offsets}")
    return AttentionConfig(_kind(state, ENCODER), _kind(state, DECODER), NUM_HEADS, num_points)


def _kind(state: Mapping[str, Tensor], layers: str) -> AttentionKind:
    """Weights from the query only, keys of their own, or neither: keys that are the values."""
    names = [name for name in state if name.startswith(layers)]
    if any(".attention_weights." in name for name in names):
        return "deformable"
    return "key_aware" if any(".key_proj." in name for name in names) else "key_aware_shared"


def _encoder(state: Mapping[str, Tensor], num_high_levels: int | None, num_levels: int, channels: int) -> EncoderConfig:
    num_layers = _count(state, ENCODER)
    feedforward = _shape(state, f"{ENCODER}0.linear1.weight", 2)[0]
    low_level = [tuple(f"{ENCODER}{n}.{part}" for part in LOW_LEVEL_PARTS) for n in range(num_layers)]
    ends = [n for n, parts in enumerate(low_level) if any(name.startswith(parts) for name in state)]
    if not ends:
        full = "null (None): its encoder updates all levels in every layer, no layer has a linear12"
        require(num_high_levels is None, "num_high_levels", full, num_high_levels)
        return EncoderConfig("full", None, None, None, num_layers, feedforward)
    _require_high_levels(num_high_levels, num_levels)
    low = _shape(state, f"{ENCODER}{ends[0]}.linear12.weight", 2)[0]
    return EncoderConfig(
        "joint",
        num_high_levels=num_high_levels,
        num_high_layers=_block_length(ends, num_layers),
        num_blocks=len(ends),
        feedforward=feedforward,
        low_feedforward=None if low == channels else low,
    )


def _require_high_levels(num_high_levels: int | None, num_levels: int) -> None:
    if num_high_levels is None:
        raise ConfigError(
            f"num_high_levels: expected an integer in 1..{num_levels - 1}, the x of HxLy: the encoder is interleaved, "
            "and no name or shape shows which of its levels are the high ones; H3L1 has 3, H2L2 has 2"
        )
    fits = type(num_high_levels) is int and 1 <= num_high_levels < num_levels
    expected = f"an integer in 1..{num_levels - 1} (there are {num_levels} levels)"
    require(fits, "num_high_levels", expected, num_high_levels)


def _block_length(ends: list[int], num_layers: int) -> int:
    """A, of blocks that end with the layers `ends`."""
    length = ends[0] + 1
    if ends != list(range(length - 1, num_layers, length)) or ends[-1] != num_layers - 1:
        raise PublishedWeightsError(
            f"{ENCODER}: expected blocks of equal length, each ending with a layer that has linear12, linear22 and "
            f"norm22; of {num_layers} layers these do: {', '.join(map(str, ends))}"
        )
    return length


def _shape(state: Mapping[str, Tensor], name: str, num_dimensions: int) -> tuple[int, ...]:
    if name not in state:
        raise PublishedWeightsError(f"missing: {name}; without it the detector's layout cannot be read")
    shape = tuple(state[name].shape)
    if len(shape) != num_dimensions:
        raise PublishedWeightsError(f"wrong shape: {name} {shape}, expected {num_dimensions} dimensions")
    return shape


def _count(names: Iterable[str], prefix: str) -> int:
    """How many numbered parts `<prefix><n>.` there are, counted to the last."""
    found = [re.match(rf"{re.escape(prefix)}(\d+)\.", name) for name in names]
    return max((int(match[1]) + 1 for match in found if match), default=0)
