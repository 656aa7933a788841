"""A small detector in double precision, with weights that make every part matter."""

import torch

from litedetr.models import Detector, DetectorConfig, build_detector
from litedetr.settings import from_mapping
from litedetr.structures import Target, TargetBatch

SMALL = {
    "backbone": {"name": "resnet18", "norm": "group", "frozen_stages": 0, "width": 8},
    "neck": {"channels": 16, "num_levels": 4, "norm_groups": 4},
    "encoder": {"update": "sequential", "num_high_levels": 3, "num_high_layers": 2, "num_blocks": 2, "feedforward": 24},
    "attention": {"num_heads": 2, "num_points": 2},
    "query_selection": {"num_queries": 10},
    "denoising": {"num_pairs": 6},
    "decoder": {"num_layers": 2, "feedforward": 24},
}

FULL = {"update": "full", "num_layers": 2, "num_high_levels": None, "num_high_layers": None, "num_blocks": None}
PLAIN = {"encoder": "deformable", "decoder": "deformable"}
# What conf/decoder says of the two, at a small size.
DEFORMABLE_DETR = {
    "encoder": FULL,
    "attention": PLAIN,
    "query_selection": {"kind": "two_stage"},
    "denoising": {"num_pairs": 0},
    "decoder": {"heads": "per_layer", "query_position": "proposals", "look_forward_twice": False},
}
H_DETR = {
    **DEFORMABLE_DETR,
    "query_selection": {"kind": "two_stage_mixed"},
    "hybrid": {"num_queries": 15, "num_repeats": 3},
    "decoder": {"heads": "per_layer", "query_position": "proposals"},
}


def small_config(**changes) -> DetectorConfig:
    """SMALL with whole or partial sections replaced."""
    merged = {
        name: {**SMALL.get(name, {}), **part} if isinstance(part, dict) else part for name, part in changes.items()
    }
    return from_mapping(DetectorConfig, SMALL | merged)


def small_detector(num_classes: int = 3, **changes) -> Detector:
    """Random weights everywhere, also where initialisation has zeros, which would hide mistakes."""
    torch.manual_seed(0)
    model = build_detector(small_config(**changes), num_classes).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def random_images(*sizes: tuple[int, int]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(3, h, w, generator=generator, dtype=torch.float64) for h, w in sizes]


def random_targets(*counts: int) -> TargetBatch:
    generator = torch.Generator().manual_seed(2)
    return TargetBatch.from_targets(
        [
            Target(
                torch.randint(3, (n,), generator=generator),
                torch.rand(n, 4, generator=generator, dtype=torch.float64) * 0.3 + 0.3,
                i,
                (64, 64),
            )
            for i, n in enumerate(counts)
        ]
    )
