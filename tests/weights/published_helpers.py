"""State dicts as the published code writes them, made without its weights and without ours.

The names and shapes are spelled out here a second time, on purpose: the converter's own table must not test itself.
`test_published_layouts.py` holds them against the list that the published code wrote (`state_shapes` of the vectors).
"""

import json
import math
import zlib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

VECTORS = Path(__file__).parents[1] / "data" / "published_h3l1_a6_b1.npz"
Shapes = dict[str, tuple[int, ...]]
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


@dataclass(frozen=True)
class Variant:
    """Options of the published code. ends: which encoder layers update the low-level tokens too, none if full.

    encoder_keys, decoder_keys: `shared`, `own`, or `none` without key-aware attention.
    """

    ends: tuple[int, ...] = (5,)
    encoder_layers: int = 6
    levels: int = 4
    encoder_keys: str = "shared"
    decoder_keys: str = "shared"
    backbone: int = 18
    width: int = 8
    channels: int = 32
    points: int = 4
    hidden: int = 48
    low_hidden: int = 32
    decoder_layers: int = 2
    decoder_hidden: int = 40
    queries: int = 20
    classes: int = 91

    @property
    def backbone_channels(self) -> tuple[int, ...]:
        """Of C2 to C5."""
        return tuple(self.width * 2**i * (4 if self.backbone >= 50 else 1) for i in range(4))


PAPER = Variant(
    backbone=50, width=64, channels=256, hidden=2048, low_hidden=256, decoder_layers=6, decoder_hidden=2048, queries=900
)


def vectors() -> dict[str, np.ndarray]:
    with np.load(VECTORS) as file:
        return {name: file[name] for name in file.files}


def from_json(array: np.ndarray) -> dict:
    return json.loads(str(array))


def fill_value(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """float32 values for the parameter or buffer `name`, the same on any machine: the vectors' recipe.

    The generator is numpy's legacy RandomState, whose stream numpy's compatibility policy freezes.
    """
    n = np.asarray(np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32))
    owner = name.split(".")[-2] if "." in name else ""
    if name.endswith("running_var"):
        return 1 + np.float32(0.1) * np.abs(n)
    if name.endswith("running_mean"):
        return np.float32(0.1) * n
    if n.ndim >= 2:
        if "embed" in owner or "label_enc" in name or "level_embed" in name:
            return np.float32(0.5) * n
        return n * np.float32(1.0 / math.sqrt(n[0].size))
    if name.endswith("weight"):
        return 1 + np.float32(0.1) * n
    if "sampling_offsets" in name:
        return np.float32(2.0) * n
    if "class_embed" in name:
        return -2 + np.float32(0.1) * n
    return np.float32(0.05) * n


def original(name: str, decoder_layers: int) -> str:
    """The name whose values a repeated tensor shares: the heads of all decoder layers are the last one's."""
    parts = name.removeprefix("transformer.decoder.").split(".")
    return (
        ".".join([parts[0], str(decoder_layers - 1), *parts[2:]]) if parts[0] in ("bbox_embed", "class_embed") else name
    )


def state_dict(variant: Variant) -> dict[str, torch.Tensor]:
    """Every tensor filled by its name."""
    shapes = published_shapes(variant)
    return {n: torch.from_numpy(fill_value(original(n, variant.decoder_layers), s)) for n, s in shapes.items()}


def published_shapes(v: Variant) -> Shapes:
    c, shapes = v.channels, {"transformer.level_embed": (v.levels, v.channels)}
    for i in range(v.encoder_layers):
        shapes |= _below(f"transformer.encoder.layers.{i}", _encoder_layer(v, i in v.ends))
    for i in range(v.decoder_layers):
        shapes |= _below(f"transformer.decoder.layers.{i}", _decoder_layer(v))
    shapes |= _norm("transformer.decoder.norm", c) | _mlp("transformer.decoder.ref_point_head", 2 * c, c, c)
    for owner in ("transformer.decoder.", ""):
        for i in range(v.decoder_layers):
            shapes |= _mlp(f"{owner}bbox_embed.{i}", c, c, c, 4) | _linear(f"{owner}class_embed.{i}", c, v.classes)
    shapes |= {"transformer.tgt_embed.weight": (v.queries, c), "label_enc.weight": (v.classes + 1, c)}
    shapes |= _linear("transformer.enc_output", c, c) | _norm("transformer.enc_output_norm", c)
    shapes |= _mlp("transformer.enc_out_bbox_embed", c, c, c, 4) | _linear(
        "transformer.enc_out_class_embed", c, v.classes
    )
    return shapes | _neck(v) | _below("backbone.0.body", _resnet(v))


def _below(prefix: str, shapes: Shapes) -> Shapes:
    return {f"{prefix}.{name}": shape for name, shape in shapes.items()}


def _linear(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, channels: int) -> Shapes:
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def _mlp(name: str, *widths: int) -> Shapes:
    return {k: s for i, (a, b) in enumerate(pairwise(widths)) for k, s in _linear(f"{name}.layers.{i}", a, b).items()}


def _attention(v: Variant, keys: str) -> Shapes:
    """query_proj is there whatever the keys; without key-aware attention nobody uses it."""
    samples, c = 8 * v.levels * v.points, v.channels
    shapes = _linear("sampling_offsets", c, 2 * samples)
    for name in ("value_proj", "query_proj", "output_proj"):
        shapes |= _linear(name, c, c)
    return (
        shapes
        | {"shared": {}, "own": _linear("key_proj", c, c), "none": _linear("attention_weights", c, samples)}[keys]
    )


def _encoder_layer(v: Variant, ends_block: bool) -> Shapes:
    c = v.channels
    shapes = _below("self_attn", _attention(v, v.encoder_keys)) | _norm("norm1", c) | _norm("norm2", c)
    shapes |= _linear("linear1", c, v.hidden) | _linear("linear2", v.hidden, c)
    if ends_block:
        shapes |= _linear("linear12", c, v.low_hidden) | _linear("linear22", v.low_hidden, c) | _norm("norm22", c)
    return shapes


def _decoder_layer(v: Variant) -> Shapes:
    c = v.channels
    shapes = _below("cross_attn", _attention(v, v.decoder_keys))
    shapes |= {"self_attn.in_proj_weight": (3 * c, c), "self_attn.in_proj_bias": (3 * c,)}
    shapes |= _linear("self_attn.out_proj", c, c)
    shapes |= _linear("linear1", c, v.decoder_hidden) | _linear("linear2", v.decoder_hidden, c)
    return shapes | _norm("norm1", c) | _norm("norm2", c) | _norm("norm3", c)


def _neck(v: Variant) -> Shapes:
    """One level more than the backbone gives, by a 3x3 convolution of its last map."""
    maps, shapes = v.backbone_channels[-(v.levels - 1) :], {}
    for i, (inputs, kernel) in enumerate([*((width, 1) for width in maps), (maps[-1], 3)]):
        shapes[f"input_proj.{i}.0.weight"] = (v.channels, inputs, kernel, kernel)
        shapes |= {f"input_proj.{i}.0.bias": (v.channels,)} | _norm(f"input_proj.{i}.1", v.channels)
    return shapes


def _batch_norm(name: str, channels: int) -> Shapes:
    return {f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")}


def _resnet(v: Variant) -> Shapes:
    shapes = {"conv1.weight": (v.width, 3, 7, 7)} | _batch_norm("bn1", v.width)
    inputs = v.width
    for stage, (depth, out) in enumerate(zip(DEPTHS[v.backbone], v.backbone_channels, strict=True), start=1):
        inner = v.width * 2 ** (stage - 1)
        for block in range(depth):
            shapes |= _below(f"layer{stage}.{block}", _residual_block(inputs, inner, out))
            inputs = out
    return shapes


def _residual_block(inputs: int, inner: int, out: int) -> Shapes:
    if inner == out:
        widths = [(inputs, inner, 3), (inner, out, 3)]
    else:
        widths = [(inputs, inner, 1), (inner, inner, 3), (inner, out, 1)]
    shapes: Shapes = {}
    for i, (a, b, kernel) in enumerate(widths, start=1):
        shapes |= {f"conv{i}.weight": (b, a, kernel, kernel)} | _batch_norm(f"bn{i}", b)
    if inputs != out:
        shapes |= {"downsample.0.weight": (out, inputs, 1, 1)} | _batch_norm("downsample.1", out)
    return shapes
