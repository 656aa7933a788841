"""What a detector is made of, as plain values: the form it has in configuration files and checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from litedetr.settings import require, typed

AttentionKind = Literal["deformable", "key_aware", "key_aware_shared"]
Padding = Literal["exact", "published"]
Backend = Literal["auto", "triton", "reference"]
SelectionKind = Literal["mixed", "two_stage", "two_stage_mixed"]

# Far beyond any detector, and low enough for what does not fit to fail at once, as an allocation.
MOST = 2**16  # of widths, queries and pairs
MOST_LAYERS, MOST_LEVELS, MOST_POINTS = 100, 16, 256


@dataclass(frozen=True)
@typed
class BackboneConfig:
    """name: resnet18|34|50|101, or `transformers:<model name or folder>`.

    weights: path or URL of pre-trained weights, None: random.
    Of ResNets alone: norm: frozen batch norm, or group norm (8 channels a group) to train from scratch;
    frozen_stages: how many of (stem, layer1, ..., layer4) are not trained; width: channels of the stem, usually 64.
    """

    name: str = "resnet50"
    weights: str | None = None
    norm: Literal["frozen", "group"] = "frozen"
    frozen_stages: int = 2
    width: int = 64

    def __post_init__(self) -> None:
        require(0 <= self.frozen_stages <= 5, "backbone.frozen_stages", "an integer in 0..5", self.frozen_stages)
        fits = 8 <= self.width <= MOST and self.width % 8 == 0
        require(fits, "backbone.width", f"a multiple of 8 in 8..{MOST}", self.width)


@dataclass(frozen=True)
@typed
class NeckConfig:
    """channels: C. num_levels: L; min(L - 1, 4) come from the backbone, the rest from stride-2 convolutions."""

    channels: int = 256
    num_levels: int = 4
    norm_groups: int = 32

    def __post_init__(self) -> None:
        _require_count("neck.num_levels", self.num_levels, MOST_LEVELS)
        _require_count("neck.norm_groups", self.norm_groups)
        _require_count("neck.channels", self.channels)
        fits = self.channels % self.norm_groups == 0 and self.channels % 4 == 0
        require(fits, "neck.channels", f"a multiple of 4 and of neck.norm_groups ({self.norm_groups})", self.channels)


@dataclass(frozen=True)
@typed
class AttentionConfig:
    """encoder, decoder: the score of each. num_heads: M. num_points: P. backend: what computes it, see `kernels`."""

    encoder: AttentionKind = "key_aware_shared"
    decoder: AttentionKind = "key_aware_shared"
    num_heads: int = 8
    num_points: int = 4
    backend: Backend = "auto"

    def __post_init__(self) -> None:
        _require_count("attention.num_heads", self.num_heads)
        _require_count("attention.num_points", self.num_points, MOST_POINTS)


@dataclass(frozen=True)
@typed
class EncoderConfig:
    """update: `sequential` (paper, Eqs. 1-2), `joint` (published code) or `full` (every layer updates all tokens).

    num_high_levels: x of HxLy. num_high_layers: A, the high-level updates of a block. num_blocks: B.
    num_layers: of `full` only. feedforward, low_feedforward: hidden widths for high- and low-level tokens;
    low_feedforward None: C. low_level_update: of `sequential` only; False leaves the low-level update out: fine tokens
    are keys of the high-level updates and end there, the decoder sees the high levels alone (Table 5, "+HL").
    dropout: behind attention and inside the feed-forward; 0 but in Deformable DETR.
    activation_checkpointing: recompute layers in the backward pass to save memory.
    """

    update: Literal["sequential", "joint", "full"] = "sequential"
    num_high_levels: int | None = None
    num_high_layers: int | None = None
    num_blocks: int | None = None
    num_layers: int | None = None
    feedforward: int = 2048
    low_feedforward: int | None = None
    low_level_update: bool = True
    dropout: float = 0.0
    activation_checkpointing: bool = False

    def __post_init__(self) -> None:
        if self.update == "full":
            for name in ("num_high_levels", "num_high_layers", "num_blocks", "low_feedforward"):
                require(
                    getattr(self, name) is None,
                    f"encoder.{name}",
                    "nothing with encoder.update=full",
                    getattr(self, name),
                )
            _require_count("encoder.num_layers", self.num_layers, MOST_LAYERS)
        else:
            require(
                self.num_layers is None,
                "encoder.num_layers",
                f"nothing with encoder.update={self.update}",
                self.num_layers,
            )
            _require_count("encoder.num_high_levels", self.num_high_levels, MOST_LEVELS)
            _require_count("encoder.num_high_layers (a)", self.num_high_layers, MOST_LAYERS)
            _require_count("encoder.num_blocks (b)", self.num_blocks, MOST_LAYERS)
            if self.low_feedforward is not None:
                _require_count("encoder.low_feedforward", self.low_feedforward)
        _require_count("encoder.feedforward", self.feedforward)
        _require_dropout("encoder.dropout", self.dropout)
        self._require_low_level_update()

    def _require_low_level_update(self) -> None:
        if self.low_level_update:
            return
        expected = f"true with encoder.update={self.update}, which updates low-level tokens in every block"
        require(self.update == "sequential", "encoder.low_level_update", expected, self.low_level_update)
        none = "nothing with encoder.low_level_update=false"
        require(self.low_feedforward is None, "encoder.low_feedforward", none, self.low_feedforward)


def _require_count(name: str, value: int | None, most: int = MOST) -> None:
    require(value is not None and 1 <= value <= most, name, f"an integer in 1..{most}", value)


def _require_dropout(name: str, value: float) -> None:
    require(0 <= value < 1, name, "a probability below 1", value)


@dataclass(frozen=True)
@typed
class QuerySelectionConfig:
    """num_queries: how many tokens become queries (fewer where an image has fewer tokens).

    kind: what a query is made of, see `query_selection`; `mixed` (DINO), `two_stage` (Deformable DETR) or
    `two_stage_mixed` (H-DETR).
    """

    num_queries: int = 900
    kind: SelectionKind = "mixed"

    def __post_init__(self) -> None:
        _require_count("query_selection.num_queries", self.num_queries)


@dataclass(frozen=True)
@typed
class DenoisingConfig:
    """Contrastive denoising (DINO, section 3.3). num_pairs: at most so many, groups x objects; 0: off.

    box_noise: scale of the corners' jitter (1.0 in Lite-DINO, 0.4 in DINO). label_flip: probability of a random label.
    """

    num_pairs: int = 100
    box_noise: float = 1.0
    label_flip: float = 0.25

    def __post_init__(self) -> None:
        require(0 <= self.num_pairs <= MOST, "denoising.num_pairs", f"an integer in 0..{MOST}", self.num_pairs)
        require(self.box_noise >= 0, "denoising.box_noise", "a number >= 0", self.box_noise)
        require(0 <= self.label_flip <= 1, "denoising.label_flip", "a probability", self.label_flip)


@dataclass(frozen=True)
@typed
class HybridConfig:
    """One-to-many matching in training (H-DETR, section 3.2, "hybrid branch").

    num_queries: queries that exist in training alone and are matched to every object `num_repeats` times; 0: off.
    """

    num_queries: int = 0
    num_repeats: int = 6

    def __post_init__(self) -> None:
        require(0 <= self.num_queries <= MOST, "hybrid.num_queries", f"an integer in 0..{MOST}", self.num_queries)
        _require_count("hybrid.num_repeats", self.num_repeats)


@dataclass(frozen=True)
@typed
class DecoderConfig:
    """num_layers decoder layers with feed-forwards `feedforward` wide. The defaults are DINO's.

    heads: `shared` by all layers behind one final norm, or `per_layer` on the layers' outputs (Deformable DETR).
    query_position: of the `reference` box, anew in each layer (DINO), or of the `proposals`, constant.
    look_forward_twice: the loss of layer n + 1 reaches layer n through its reference box (DINO, section 3.5).
    dropout: behind each attention, inside it and inside the feed-forward; 0 but in Deformable DETR.
    activation_checkpointing: recompute layers in the backward pass to save memory.
    """

    num_layers: int = 6
    feedforward: int = 2048
    heads: Literal["shared", "per_layer"] = "shared"
    query_position: Literal["reference", "proposals"] = "reference"
    look_forward_twice: bool = True
    dropout: float = 0.0
    activation_checkpointing: bool = False

    def __post_init__(self) -> None:
        _require_count("decoder.num_layers", self.num_layers, MOST_LAYERS)
        _require_count("decoder.feedforward", self.feedforward)
        _require_dropout("decoder.dropout", self.dropout)


@dataclass(frozen=True)
@typed
class DetectorConfig:
    """A whole detector. padding: `exact` makes every image's result independent of the images it is batched with;
    `published` reproduces the published code, whose convolutions and group norms see the padding.
    """

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    neck: NeckConfig = field(default_factory=NeckConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    query_selection: QuerySelectionConfig = field(default_factory=QuerySelectionConfig)
    denoising: DenoisingConfig = field(default_factory=DenoisingConfig)
    hybrid: HybridConfig = field(default_factory=HybridConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    padding: Padding = "exact"

    def __post_init__(self) -> None:
        channels, heads = self.neck.channels, self.attention.num_heads
        require(channels % heads == 0, "attention.num_heads", f"a divisor of neck.channels ({channels})", heads)
        high, levels = self.encoder.num_high_levels, self.neck.num_levels
        both = f"at least 2 with encoder.update={self.encoder.update}, which splits them"
        require(high is None or levels >= 2, "neck.num_levels", both, levels)
        in_range = high is None or 1 <= high < levels
        require(
            in_range, "encoder.num_high_levels", f"an integer in 1..{levels - 1} (neck.num_levels is {levels})", high
        )
        self._require_matching_parts()

    @property
    def num_memory_levels(self) -> int:
        """Levels of the encoder's output, which query selection and decoder see."""
        return self.neck.num_levels if self.encoder.low_level_update else self.encoder.num_high_levels

    def _require_matching_parts(self) -> None:
        """Selection, decoder and the branches of training must fit: else parameters would be idle or positions miss."""
        kind, position = self.query_selection.kind, self.decoder.query_position
        fitting = "reference" if kind == "mixed" else "proposals"
        require(position == fitting, "decoder.query_position", f"{fitting} with query_selection.kind={kind}", position)
        pairs, one_to_many = self.denoising.num_pairs, self.hybrid.num_queries
        if position == "proposals":
            expected = "0 with decoder.query_position=proposals: noised boxes are no proposals and have no position"
            require(pairs == 0, "denoising.num_pairs", expected, pairs)
        if one_to_many:
            expected = f"0 with hybrid.num_queries={one_to_many}: one branch of training at a time"
            require(pairs == 0, "denoising.num_pairs", expected, pairs)
