"""Which attentions a detector calls, and with what sizes: what autotune measures."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import torch

from litedetr.models.detector import Detector, build_detector
from litedetr.models.detector_config import AttentionKind, BackboneConfig, DetectorConfig
from litedetr.models.neck import Shapes
from litedetr.models.record_attentions import record_attentions
from litedetr.structures import ImageBatch, Target, TargetBatch

# Stands for any backbone, as the sizes of the levels are the same with all of them; it needs no files.
BACKBONE = BackboneConfig("resnet18", frozen_stages=0, width=8)


@dataclass(frozen=True)
class AttentionCall:
    """Calls of attentions that are equal in all of this."""

    where: str  # encoder or decoder
    kind: AttentionKind
    shapes: Shapes  # (H, W) of the memory's levels, fine to coarse
    query_levels: tuple[int, int] | None  # the queries are the cells of the levels [first, last); None: they are boxes
    num_queries: int
    count: int = 1  # calls of one forward pass


def attention_calls(config: DetectorConfig, image_size: tuple[int, int]) -> list[AttentionCall]:
    """All calls for one image of (height, width); the decoder's once without and once with the queries of training.

    They are those of two forward passes on tensors without data.
    """
    config = replace(config, backbone=BACKBONE, attention=replace(config.attention, backend="auto"))
    one_object = Target(torch.zeros(1, dtype=torch.int64), torch.zeros(1, 4), image_id=0, original_size=image_size)
    with torch.device("meta"):
        model = build_detector(config, num_classes=1).eval()
        images = ImageBatch(torch.empty(1, 3, *image_size), torch.empty(1, 2, dtype=torch.int64), padded=False)
    detecting = _calls_of(model, images, None)
    # With one object there are as many denoising queries as there may be.
    training = _calls_of(model, images, TargetBatch.from_targets([one_object]).to("meta"))
    return [replace(call, count=count) for call, count in (detecting | training).items()]


@torch.no_grad()
def _calls_of(model: Detector, images: ImageBatch, targets: TargetBatch | None) -> Counter[AttentionCall]:
    """How many of each there are in one forward pass."""
    with record_attentions(model) as recorded:
        model(images, targets)
    of_encoder = set(model.encoder.modules())
    calls: Counter[AttentionCall] = Counter()
    for call in recorded:
        where = "encoder" if call.attention in of_encoder else "decoder"
        sizes = call.memory.shapes, call.query_levels, call.query.shape[1]
        calls[AttentionCall(where, call.attention.kind, *sizes)] += 1
    return calls
