"""What a detector is made of, as plain values: the form it has in configuration files and checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from litedetr.config import require

AttentionKind = Literal["deformable", "key_aware", "key_aware_shared"]
Padding = Literal["exact", "published"]


@dataclass(frozen=True)
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
        require(self.width >= 8 and self.width % 8 == 0, "backbone.width", "a multiple of 8", self.width)


@dataclass(frozen=True)
class NeckConfig:
    """channels: C. num_levels: L; min(L - 1, 4) come from the backbone, the rest from stride-2 convolutions."""

    channels: int = 256
    num_levels: int = 4
    norm_groups: int = 32

    def __post_init__(self) -> None:
        require(self.num_levels >= 1, "neck.num_levels", "an integer >= 1", self.num_levels)
        fits = self.channels > 0 and self.channels % self.norm_groups == 0 and self.channels % 4 == 0
        require(fits, "neck.channels", f"a multiple of 4 and of neck.norm_groups ({self.norm_groups})", self.channels)


@dataclass(frozen=True)
class AttentionConfig:
    """encoder, decoder: the score of each. num_heads: M. num_points: P. backend: what computes it, see `kernels`."""

    encoder: AttentionKind = "key_aware_shared"
    decoder: AttentionKind = "key_aware_shared"
    num_heads: int = 8
    num_points: int = 4
    backend: Literal["auto", "triton", "reference"] = "auto"

    def __post_init__(self) -> None:
        require(self.num_heads >= 1, "attention.num_heads", "an integer >= 1", self.num_heads)
        require(self.num_points >= 1, "attention.num_points", "an integer >= 1", self.num_points)


@dataclass(frozen=True)
class EncoderConfig:
    """update: `sequential` (paper, Eqs. 1-2), `joint` (published code) or `full` (every layer updates all tokens).

    num_high_levels: x of HxLy. num_high_layers: A, the high-level updates of a block. num_blocks: B.
    num_layers: of `full` only. feedforward, low_feedforward: hidden widths for high- and low-level tokens;
    low_feedforward None: C. activation_checkpointing: recompute layers in the backward pass to save memory.
    """

    update: Literal["sequential", "joint", "full"] = "sequential"
    num_high_levels: int | None = None
    num_high_layers: int | None = None
    num_blocks: int | None = None
    num_layers: int | None = None
    feedforward: int = 2048
    low_feedforward: int | None = None
    activation_checkpointing: bool = False

    def __post_init__(self) -> None:
        if self.update == "full":
            for name in ("num_high_levels", "num_high_layers", "num_blocks"):
                require(
                    getattr(self, name) is None,
                    f"encoder.{name}",
                    "nothing with encoder.update=full",
                    getattr(self, name),
                )
            _require_count("encoder.num_layers", self.num_layers)
        else:
            require(
                self.num_layers is None,
                "encoder.num_layers",
                f"nothing with encoder.update={self.update}",
                self.num_layers,
            )
            _require_count("encoder.num_high_levels", self.num_high_levels)
            _require_count("encoder.num_high_layers (a)", self.num_high_layers)
            _require_count("encoder.num_blocks (b)", self.num_blocks)
        _require_count("encoder.feedforward", self.feedforward)


def _require_count(name: str, value: int | None) -> None:
    require(value is not None and value >= 1, name, "an integer >= 1", value)


@dataclass(frozen=True)
class QuerySelectionConfig:
    """num_queries: how many tokens become queries (fewer where an image has fewer tokens)."""

    num_queries: int = 900

    def __post_init__(self) -> None:
        _require_count("query_selection.num_queries", self.num_queries)


@dataclass(frozen=True)
class DenoisingConfig:
    """Contrastive denoising (DINO, section 3.3). num_pairs: at most so many, groups x objects; 0: off.

    box_noise: scale of the corners' jitter (1.0 in Lite-DINO, 0.4 in DINO). label_flip: probability of a random label.
    """

    num_pairs: int = 100
    box_noise: float = 1.0
    label_flip: float = 0.25

    def __post_init__(self) -> None:
        require(self.num_pairs >= 0, "denoising.num_pairs", "an integer >= 0", self.num_pairs)
        require(self.box_noise >= 0, "denoising.box_noise", "a number >= 0", self.box_noise)
        require(0 <= self.label_flip <= 1, "denoising.label_flip", "a probability", self.label_flip)


@dataclass(frozen=True)
class DecoderConfig:
    """num_layers decoder layers with feed-forwards `feedforward` wide."""

    num_layers: int = 6
    feedforward: int = 2048

    def __post_init__(self) -> None:
        _require_count("decoder.num_layers", self.num_layers)
        _require_count("decoder.feedforward", self.feedforward)


@dataclass(frozen=True)
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
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    padding: Padding = "exact"

    def __post_init__(self) -> None:
        channels, heads = self.neck.channels, self.attention.num_heads
        require(channels % heads == 0, "attention.num_heads", f"a divisor of neck.channels ({channels})", heads)
        high, levels = self.encoder.num_high_levels, self.neck.num_levels
        in_range = high is None or 1 <= high < levels
        require(
            in_range, "encoder.num_high_levels", f"an integer in 1..{levels - 1} (neck.num_levels is {levels})", high
        )
