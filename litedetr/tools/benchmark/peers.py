"""Detectors of the transformers library to compare with, with their default configuration and random weights."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor, nn

from litedetr.engine.precision import autocast
from litedetr.settings import require
from litedetr.tools.benchmark.timed_detectors import Conditions, TimedDetector

STRIDE = 32  # RT-DETR takes sides that are multiples of it
NAMES = {"rt_detr": "RT-DETR R50 (transformers)", "deformable_detr": "Deformable DETR R50 (transformers)"}


def peer(name: str, conditions: Conditions) -> TimedDetector:
    """A peer by a name of NAMES, on images whose sides are rounded up to multiples of 32; ConfigError without the
    transformers library.
    """
    has_library = find_spec("transformers") is not None
    require(has_library, "models.peers", "[] without the transformers library (pip install litedetr[backbones])", name)
    torch.manual_seed(0)
    model = (_rt_detr() if name == "rt_detr" else _deformable_detr()).eval().to(conditions.device)
    height, width = conditions.batch.image_size
    pixels = conditions.batch.images(conditions.device).pixels
    pixels = nn.functional.pad(pixels, (0, -width % STRIDE, 0, -height % STRIDE))

    def timed(module: nn.Module, *arguments: Tensor):
        def step() -> object:
            with torch.no_grad(), autocast(conditions.device, conditions.batch.precision):
                return module(*arguments)

        return step

    mask = torch.ones(len(pixels), *pixels.shape[-2:], dtype=torch.long, device=conditions.device)
    steps = {"forward": timed(model, pixels), "backbone": timed(model.model.backbone, pixels, mask)}
    return TimedDetector(NAMES[name], steps, None, sum(p.numel() for p in model.parameters()) / 1e6)


def _rt_detr() -> nn.Module:
    from transformers import RTDetrConfig, RTDetrForObjectDetection

    return RTDetrForObjectDetection(RTDetrConfig())


def _deformable_detr() -> nn.Module:
    from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection, ResNetConfig

    backbone = ResNetConfig(out_features=["stage2", "stage3", "stage4"])
    config = DeformableDetrConfig(use_timm_backbone=False, use_pretrained_backbone=False, backbone_config=backbone)
    return DeformableDetrForObjectDetection(config)
