"""How much a detector computes for one image: multiply-adds by part, counted on tensors without data.

One multiply-add is one FLOP, as in the paper. There are two ways to count, both taken from the same forward pass:

published   what the published code's counter counts (its util/benchmark.py: fvcore on the attentions' PyTorch form):
            matrix products and convolutions; five for each element of a layer or group norm; four for each channel of
            a bilinear sample (nearest ones, which are not there, nothing). Key-aware attention there samples keys and
            values one after the other, even where they are the same tensor, and both its products count; plain
            deformable attention weights its samples element by element, which counts nothing. Frozen batch norm,
            softmax, sine and the like count nothing.
operators   what this code's own operators do: matrix products, convolutions, and the attentions by the formulas that
            `kernels` registers: the corners of each sample, gathered once where keys are the values, the scores and
            the weighted sum. No norms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from litedetr.engine.run_config import ImageSize
from litedetr.kernels.registration import SAMPLE_PRODUCTS
from litedetr.models import DetectorConfig, build_detector, level_shapes
from litedetr.settings import Count, Integer, Maybe, Some, Text, as_type, settings
from litedetr.structures import ImageBatch

TORCH_FLOPS = 2  # FlopCounterMode counts two a multiply-add
NORM = 5  # fvcore's figure for each element of a norm with affine parameters


@settings()
class FlopsConfig:
    """The settings of conf/flops.yaml beside the model's."""

    rows: Literal["auto", "paper", "this"]
    tables: Maybe[Some[Integer]]
    image_size: ImageSize
    num_classes: Count
    output: Text


@dataclass(frozen=True)
class Part:
    """GFLOPs counted as `published` and by our `operators`, and parameters in millions."""

    published: float = 0.0
    operators: float = 0.0
    parameters: float = 0.0

    def __add__(self, other: Part) -> Part:
        return Part(
            self.published + other.published, self.operators + other.operators, self.parameters + other.parameters
        )


@dataclass(frozen=True)
class Cost:
    """One forward pass for one image; parts by their name in the detector."""

    parts: dict[str, Part]

    @property
    def total(self) -> Part:
        return sum(self.parts.values(), Part())

    @property
    def rest(self) -> Part:
        """All but backbone and encoder, what the paper calls the decoder: neck, query selection, decoder, heads."""
        return sum((part for name, part in self.parts.items() if name not in ("backbone", "encoder")), Part())

    def __getitem__(self, name: str) -> Part:
        """`total`, `rest` or a part."""
        return getattr(self, name) if name in ("total", "rest") else self.parts[name]


def count(config: DetectorConfig, image_size: tuple[int, int], num_classes: int) -> Cost:
    """The cost of the configured detector at (height, width), without denoising queries and without any weights."""
    as_type(ImageSize, image_size, "image_size")
    with torch.device("meta"):
        model = build_detector(config, num_classes).eval()
        images = ImageBatch(torch.empty(1, 3, *image_size), torch.empty(1, 2, dtype=torch.int64), padded=False)
    return Cost(count_parts(model, images))


def count_parts(model: nn.Module, *inputs: object) -> dict[str, Part]:
    """One forward pass of `model`, by its children; what it computes outside of them must be free."""
    parameters = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    model.requires_grad_(False)  # the counter's hooks fail on views of parameters that want gradients
    published = FlopCounterMode(display=False, custom_mapping=_published_formulas())
    operators = FlopCounterMode(display=False)
    with torch.no_grad(), published, operators:
        model(*inputs)
    theirs, ours = _by_child(published, model), _by_child(operators, model)
    return {
        name: Part(theirs.get(name, 0) / 1e9, ours.get(name, 0) / 1e9, number / 1e6)
        for name, number in parameters.items()
    }


def token_shares(num_levels: int, image_size: tuple[int, int]) -> dict[str, float]:
    """Percent of all tokens on each level, S1 the coarsest."""
    cells = [math.prod(shape) for shape in level_shapes(num_levels, image_size)]
    return {f"S{num_levels - level}": 100 * number / sum(cells) for level, number in enumerate(cells)}


def _by_child(counter: FlopCounterMode, model: nn.Module) -> dict[str, float]:
    """Multiply-adds of each child of `model`."""
    found = {name: sum(by_operator.values()) / TORCH_FLOPS for name, by_operator in counter.get_flop_counts().items()}
    names = {f"{type(model).__name__}.{name}": name for name, _ in model.named_children()}
    children = {names[name]: number for name, number in found.items() if name in names}
    outside = found["Global"] - sum(children.values())
    assert outside == 0, f"{type(model).__name__} computes {outside} multiply-adds outside of its children"
    return children


def _published_formulas() -> dict[object, object]:
    """For FlopCounterMode, from shapes."""
    operators = torch.ops.litedetr
    attentions = [getattr(operators, name) for name in ("attention_cpu", "attention_fused") if hasattr(operators, name)]
    return {
        torch.ops.aten.native_layer_norm: _norm,
        torch.ops.aten.native_group_norm: _norm,
        **dict.fromkeys(attentions, _attention),
    }


def _norm(x, *_, **__) -> int:
    return TORCH_FLOPS * NORM * math.prod(x)


def _attention(
    query, key, value, logits, reference, offsets, valid_sizes, shapes, query_shapes, sampling, *_, **__
) -> int:
    channels = math.prod(offsets[:-1]) * value[-1]  # B * Q * M * L * P samples of D channels
    tables, products = (1, 0) if query is None else (2, 2)
    return TORCH_FLOPS * channels * (SAMPLE_PRODUCTS[sampling] * tables + products)
