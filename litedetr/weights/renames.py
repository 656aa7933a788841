"""The one table of names: which published tensors a tensor of ours comes from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from litedetr.models import Detector, DetectorConfig
from litedetr.models.encoder.layers import EncoderLayer
from litedetr.models.neck import num_backbone_levels
from litedetr.weights.layout import BACKBONE, DECODER, ENCODER


@dataclass(frozen=True)
class Rows:
    """Rows [first, last) of a published tensor that has `total`."""

    first: int
    last: int
    total: int


@dataclass(frozen=True)
class Rename:
    """Every name `ours` + rest comes from `published` + rest."""

    ours: str
    published: tuple[str, ...]  # several if a shared module is repeated
    rows: Rows | None = None  # None: all of them


ONCE = {
    "backbone.": BACKBONE,
    "neck.level_embedding": "transformer.level_embed",
    "query_selection.output.": "transformer.enc_output.",
    "query_selection.norm.": "transformer.enc_output_norm.",
    "query_selection.head.classes.": "transformer.enc_out_class_embed.",
    "query_selection.head.box.": "transformer.enc_out_bbox_embed.",
    "query_selection.content.": "transformer.tgt_embed.",
    "decoder.position.": "transformer.decoder.ref_point_head.",
    "decoder.norm.": "transformer.decoder.norm.",
}
ENCODER_LAYER = {
    "attention.": "self_attn.",
    "norm.": "norm1.",
    "feedforward.linear1.": "linear1.",
    "feedforward.linear2.": "linear2.",
    "feedforward.norm.": "norm2.",
    "low_feedforward.linear1.": "linear12.",
    "low_feedforward.linear2.": "linear22.",
    "low_feedforward.norm.": "norm22.",
}
DECODER_LAYER = {
    "self_attention.output.": "self_attn.out_proj.",
    "self_norm.": "norm2.",
    "cross_attention.": "cross_attn.",
    "cross_norm.": "norm1.",
    "feedforward.linear1.": "linear1.",
    "feedforward.linear2.": "linear2.",
    "feedforward.norm.": "norm3.",
}
# Heads that all decoder layers share: the state dict repeats them for each layer, in the detector and in its decoder.
SHARED_HEADS = {"decoder.head.classes.": "class_embed.", "decoder.head.box.": "bbox_embed."}
SHARED_HEADS_OF = ("", "transformer.decoder.")

# Tensors that the published code has without using them: attention has a query_proj even if its weights come from the
# query only; batch norms count their batches.
UNUSED = re.compile(
    r"backbone\.0\.body\..+\.num_batches_tracked"
    r"|transformer\.(encoder\.layers\.\d+\.self|decoder\.layers\.\d+\.cross)_attn\.query_proj\.(weight|bias)"
)


def rename_table(model: Detector) -> list[Rename]:
    """The renames of `model`; no two begin the same name of ours."""
    return [
        *(Rename(ours, (published,)) for ours, published in ONCE.items()),
        *_neck(model.config),
        *_encoder(model),
        *_decoder(model.config),
        # The last row of the label table belongs to no class and is never read.
        Rename("denoising.labels.", ("label_enc.",), Rows(0, model.num_classes, model.num_classes + 1)),
    ]


def _neck(config: DetectorConfig) -> Iterator[Rename]:
    num_projections = num_backbone_levels(config.neck.num_levels)
    for level in range(config.neck.num_levels):
        extra = level - num_projections
        ours = f"neck.projections.{level}." if extra < 0 else f"neck.extra.{extra}."
        yield Rename(f"{ours}conv.", (f"input_proj.{level}.0.",))
        yield Rename(f"{ours}norm.", (f"input_proj.{level}.1.",))


def _encoder(model: Detector) -> Iterator[Rename]:
    """Published layers are numbered in the order in which they run, which is the order of ours in a block."""
    layers = [name for name, module in model.named_modules() if isinstance(module, EncoderLayer)]
    for number, layer in enumerate(layers):
        for ours, published in ENCODER_LAYER.items():
            yield Rename(f"{layer}.{ours}", (f"{ENCODER}{number}.{published}",))


def _decoder(config: DetectorConfig) -> Iterator[Rename]:
    channels, layers = config.neck.channels, range(config.decoder.num_layers)
    for i in layers:
        for ours, published in DECODER_LAYER.items():
            yield Rename(f"decoder.layers.{i}.{ours}", (f"{DECODER}{i}.{published}",))
        # torch's attention keeps query, key and value as one matrix of 3 C rows.
        own, joint = f"decoder.layers.{i}.self_attention", (f"{DECODER}{i}.self_attn.in_proj_",)
        yield Rename(f"{own}.query_key.", joint, Rows(0, 2 * channels, 3 * channels))
        yield Rename(f"{own}.value.", joint, Rows(2 * channels, 3 * channels, 3 * channels))
    for ours, published in SHARED_HEADS.items():
        yield Rename(ours, tuple(f"{owner}{published}{i}." for owner in SHARED_HEADS_OF for i in layers))
