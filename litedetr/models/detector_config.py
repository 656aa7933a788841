"""What a detector is made of, as plain values: the form it has in configuration files and checkpoints."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field

from litedetr.models.encoder.update_rules import REQUIRED, UPDATE_RULES
from litedetr.settings import Flag, Integer, Maybe, Number, Probability, Text, key_of, require, settings

AttentionKind = Literal["deformable", "key_aware", "key_aware_shared"]
Padding = Literal["exact", "published"]
Backend = Literal["auto", "triton", "reference"]
Sampling = Literal["bilinear", "nearest"]
SelectionKind = Literal["mixed", "two_stage", "two_stage_mixed"]
UpdateRule = key_of(UPDATE_RULES)

# Far beyond any detector, and low enough for what does not fit to fail at once, as an allocation.
MOST = 2**16
Width = Annotated[Integer, Field(ge=1, le=MOST)]  # and numbers of queries
Layers = Annotated[Integer, Field(ge=1, le=100)]
Levels = Annotated[Integer, Field(ge=1, le=16)]
Dropout = Annotated[Number, Field(ge=0, lt=1)]


@settings("backbone")
class BackboneConfig:
    """norm and frozen_stages are not of `transformers`; width is of ResNets only."""

    name: Text = "resnet50"  # resnet18|34|50|101, efficientnet_lite0|1|2, or `transformers:<model name or folder>`
    weights: Maybe[Text] = None  # path or URL of pre-trained weights, or `package:<installed package>`; None: random
    norm: Literal["frozen", "group"] = "frozen"  # batch norm, or group norm (8 channels a group) to train from scratch
    # of EfficientNet-Lite (stem and first block, blocks of stride 4, 8, 16, 32)
    frozen_stages: Annotated[Integer, Field(ge=0, le=5)] = 2  # how many of (stem, layer1, ..., layer4) are not trained
    width: Annotated[Integer, Field(ge=8, le=MOST, multiple_of=8)] = 64  # channels of the stem


@settings("neck")
class NeckConfig:
    channels: Annotated[Width, Field(multiple_of=4)] = 256  # C
    num_levels: Levels = 4  # L; min(L - 1, 4) come from the backbone, the rest from stride-2 convolutions
    norm_groups: Width = 32  # of the group norms

    def __post_init__(self) -> None:
        expected = f"a multiple of neck.norm_groups ({self.norm_groups})"
        require(self.channels % self.norm_groups == 0, "neck.channels", expected, self.channels)


@settings("attention")
class AttentionConfig:
    encoder: AttentionKind = "key_aware_shared"  # the score of its attentions
    decoder: AttentionKind = "key_aware_shared"
    num_heads: Width = 8  # M
    num_points: Annotated[Integer, Field(ge=1, le=256)] = 4  # P, of a head on each level
    backend: Backend = "auto"  # what computes it, see `kernels`
    # nearest: the one pixel that a location lies in (the discrete sampling of RT-DETRv2, arXiv 2407.17140), to deploy
    # without interpolation. It gives the offsets no gradient, so they are frozen: fine-tune a detector that was trained
    # with bilinear sampling
    sampling: Sampling = "bilinear"


def _if_taken(name: str, default: int) -> Any:
    """The default of an encoder setting that some update rules take; with the others it is None."""
    return Field(default_factory=lambda given: default if name in UPDATE_RULES[given["update"]].takes else None)


@settings("encoder")
class EncoderConfig:
    # sequential: Eqs. 1-2 of the paper; joint: the published code; full: every layer updates all tokens
    update: UpdateRule = "sequential"
    # A rule's class says which of these it takes (`takes`); the numbers are None with the other rules.
    num_high_levels: Maybe[Levels] = _if_taken("num_high_levels", 3)  # x of HxLy
    num_high_layers: Maybe[Layers] = _if_taken("num_high_layers", 6)  # A, the high-level updates of a block
    num_blocks: Maybe[Layers] = _if_taken("num_blocks", 1)  # B
    num_layers: Maybe[Layers] = None  # of `full`
    feedforward: Width = 2048  # hidden width for high-level tokens; every rule has it
    low_feedforward: Maybe[Width] = None  # hidden width for low-level tokens; None: C
    # False: fine tokens are keys of the high-level updates and end there, and the decoder sees only the high levels
    # (Table 5, "+HL")
    low_level_update: Flag = True
    dropout: Dropout = 0.0  # behind attention and inside the feed-forward; 0 but in Deformable DETR
    activation_checkpointing: Flag = False  # recompute layers in the backward pass to save memory

    def takes(self, name: str) -> bool:
        """Whether the update rule takes the setting `name`, one of REQUIRED or OPTIONAL."""
        return name in UPDATE_RULES[self.update].takes

    def __post_init__(self) -> None:
        for name in (*REQUIRED, "low_feedforward"):
            value, fits = getattr(self, name), f"null with encoder.update={self.update}"
            require(self.takes(name) or value is None, f"encoder.{name}", fits, value)
        for name in REQUIRED:
            value, fits = getattr(self, name), f"a number with encoder.update={self.update}"
            require(value is not None or not self.takes(name), f"encoder.{name}", fits, value)
        if not self.low_level_update:
            fits = f"true with encoder.update={self.update}, which updates low-level tokens in every block"
            require(self.takes("low_level_update"), "encoder.low_level_update", fits, False)
            fits = "null with encoder.low_level_update=false"
            require(self.low_feedforward is None, "encoder.low_feedforward", fits, self.low_feedforward)


@settings("query_selection")
class QuerySelectionConfig:
    num_queries: Width = 900  # how many tokens become queries (fewer if an image has fewer tokens)
    # what a query is made of, see `query_selection`: DINO, Deformable DETR, H-DETR
    kind: SelectionKind = "mixed"


@settings("denoising")
class DenoisingConfig:
    """Contrastive denoising (DINO, section 3.3)."""

    num_pairs: Annotated[Integer, Field(ge=0, le=MOST)] = 100  # at most so many, groups x objects; 0: off
    box_noise: Annotated[Number, Field(ge=0)] = 1.0  # scale of the corners' jitter: 1.0 in Lite-DINO, 0.4 in DINO
    label_flip: Probability = 0.25  # of a random label


@settings("hybrid")
class HybridConfig:
    """One-to-many matching in training (H-DETR, section 3.2, "hybrid branch"), beside denoising if there is any."""

    # queries that exist in training only and are matched to every object num_repeats times; 0: off
    num_queries: Annotated[Integer, Field(ge=0, le=MOST)] = 0
    num_repeats: Width = 6


@settings("decoder")
class DecoderConfig:
    """The defaults are DINO's."""

    num_layers: Layers = 6
    feedforward: Width = 2048  # hidden width
    # shared by all layers behind one final norm, or per layer on the layers' outputs (Deformable DETR)
    heads: Literal["shared", "per_layer"] = "shared"
    # of the reference box, anew in each layer (DINO), or of the proposals, constant
    query_position: Literal["reference", "proposals"] = "reference"
    # the loss of layer n + 1 reaches layer n through its reference box (DINO, section 3.5)
    look_forward_twice: Flag = True
    dropout: Dropout = 0.0  # behind each attention, inside it and inside the feed-forward; 0 but in Deformable DETR
    activation_checkpointing: Flag = False  # recompute layers in the backward pass to save memory


@settings()
class DetectorConfig:
    """A whole detector."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    neck: NeckConfig = field(default_factory=NeckConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    query_selection: QuerySelectionConfig = field(default_factory=QuerySelectionConfig)
    denoising: DenoisingConfig = field(default_factory=DenoisingConfig)
    hybrid: HybridConfig = field(default_factory=HybridConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    # exact: an image's result does not depend on the images it is batched with; published: as in the published code,
    # whose convolutions and group norms see the padding
    padding: Padding = "exact"

    def __post_init__(self) -> None:
        channels, heads = self.neck.channels, self.attention.num_heads
        require(channels % heads == 0, "attention.num_heads", f"a divisor of neck.channels ({channels})", heads)
        high, levels = self.encoder.num_high_levels, self.neck.num_levels
        if high is not None:
            both = f"at least 2 with encoder.update={self.encoder.update}, which splits them"
            require(levels >= 2, "neck.num_levels", both, levels)
            expected = f"an integer in 1..{levels - 1} (neck.num_levels is {levels})"
            require(high < levels, "encoder.num_high_levels", expected, high)
        self._require_matching_parts()

    @property
    def num_low_levels(self) -> int:
        """The first levels, whose tokens are the low-level ones; 0 with an update rule that does not split them."""
        num_high = self.encoder.num_high_levels
        return 0 if num_high is None else self.neck.num_levels - num_high

    @property
    def num_memory_levels(self) -> int:
        """Levels of the encoder's output, which query selection and decoder see."""
        return self.neck.num_levels - (0 if self.encoder.low_level_update else self.num_low_levels)

    def _require_matching_parts(self) -> None:
        """Selection, decoder and denoising must fit: else parameters would be idle or positions miss."""
        kind, position = self.query_selection.kind, self.decoder.query_position
        fitting = "reference" if kind == "mixed" else "proposals"
        require(position == fitting, "decoder.query_position", f"{fitting} with query_selection.kind={kind}", position)
        if position == "proposals":
            expected = "0 with decoder.query_position=proposals: noised boxes are no proposals and have no position"
            require(self.denoising.num_pairs == 0, "denoising.num_pairs", expected, self.denoising.num_pairs)
