"""What the calls say of a detector, against the calls that it makes."""

import pytest
import torch
from model_helpers import FULL, H_DETR, random_images, random_targets, small_detector

from litedetr.models import attention_calls
from litedetr.models.attention import MultiScaleAttention
from litedetr.models.calls import level_shapes
from litedetr.structures import ImageBatch

ENCODERS = {
    "sequential": {"update": "sequential", "num_high_levels": 3, "num_high_layers": 2, "num_blocks": 2},
    "one layer joint": {"update": "joint", "num_high_levels": 2, "num_high_layers": 1, "num_blocks": 2},
    "joint": {"update": "joint", "num_high_levels": 2, "num_high_layers": 3, "num_blocks": 1},
    "full": FULL,
    "no low-level update": {"num_high_levels": 2, "low_level_update": False},
}
SYSTEMS = {name: {"encoder": encoder} for name, encoder in ENCODERS.items()} | {"H-DETR": H_DETR}


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_calls_are_those_that_are_made(system, training):
    model = small_detector(**SYSTEMS[system])
    made = []

    def note(module, arguments, _):
        where = "encoder" if module in set(model.encoder.modules()) else "decoder"
        made.append((where, module.kind, arguments[2].shapes, arguments[0].shape[1]))

    for module in model.modules():
        if isinstance(module, MultiScaleAttention):
            module.register_forward_hook(note)
    size = (83, 150)
    with torch.no_grad():
        # one object: as many denoising groups as there may be pairs
        model(ImageBatch.from_images(random_images(size)), random_targets(1) if training else None)
    calls = attention_calls(model.config, size)
    unused = max(call.num_queries for call in calls if call.where == "decoder")
    if training:
        unused = min(call.num_queries for call in calls if call.where == "decoder")
    expected = [
        (call.where, call.kind, call.shapes, call.num_queries)
        for call in calls
        for _ in range(call.count)
        if call.where == "encoder" or call.num_queries != unused
    ]
    assert sorted(made, key=str) == sorted(expected, key=str)


@pytest.mark.parametrize("levels", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("size", [(64, 64), (97, 130)])
def test_level_shapes_are_the_necks(levels, size):
    model = small_detector(
        neck={"num_levels": levels},
        encoder={
            "update": "full",
            "num_layers": 1,
            "num_high_levels": None,
            "num_high_layers": None,
            "num_blocks": None,
        },
    )
    images = ImageBatch.from_images(random_images(size))
    assert model.neck(model.backbone(images), images).shapes == level_shapes(levels, size)


def test_published_size():
    assert level_shapes(4, (800, 1333)) == ((100, 167), (50, 84), (25, 42), (13, 21))
