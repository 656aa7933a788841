"""What the calls say of a detector, against the calls that it makes with images."""

import pytest
import torch
from model_helpers import FULL, H_DETR, random_images, random_targets, small_config, small_detector

from litedetr.models import AttentionCall, attention_calls, level_shapes
from litedetr.models.attention import MultiScaleAttention
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


FINE, COARSE = ((100, 167),), ((50, 84), (25, 42), (13, 21))


@pytest.mark.parametrize(
    ("encoder", "expected"),
    [
        ("sequential", [((1, 4), 5523, 4), ((0, 1), 16700, 2)]),
        ("one layer joint", [((0, 4), 22223, 2)]),
        ("joint", [((2, 4), 1323, 2), ((0, 4), 22223, 1)]),
        ("full", [((0, 4), 22223, 2)]),
        ("no low-level update", [((2, 4), 1323, 4)]),
    ],
)
def test_calls_of_the_published_size(encoder, expected):
    config = small_config(encoder=ENCODERS[encoder], query_selection={"num_queries": 900})
    of_encoder = [AttentionCall("encoder", "key_aware_shared", FINE + COARSE, *sizes) for sizes in expected]
    seen = COARSE[1:] if encoder == "no low-level update" else FINE + COARSE
    numbers = (900, 900 + 2 * config.denoising.num_pairs)
    of_decoder = [AttentionCall("decoder", "key_aware_shared", seen, None, number, 2) for number in numbers]
    assert attention_calls(config, (800, 1333)) == of_encoder + of_decoder


def test_without_queries_of_training_the_decoder_is_called_once():
    config = small_config(denoising={"num_pairs": 0}, query_selection={"num_queries": 900})
    calls = [call for call in attention_calls(config, (96, 128)) if call.where == "decoder"]
    assert [(call.num_queries, call.count) for call in calls] == [(256, 2)]  # there are fewer tokens


@pytest.mark.parametrize("backend", ["auto", "triton", "reference"])
def test_neither_files_nor_a_gpu_are_needed(backend):
    backbone = {"name": "transformers:nobody/no-such-model", "frozen_stages": 0}
    config = small_config(backbone=backbone, attention={"backend": backend})
    assert attention_calls(config, (97, 130)) == attention_calls(small_config(), (97, 130))


def test_published_size():
    assert level_shapes(4, (800, 1333)) == ((100, 167), (50, 84), (25, 42), (13, 21))
