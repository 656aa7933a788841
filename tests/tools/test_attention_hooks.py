"""What is recorded of a forward pass, and what is read out of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from engine_helpers import MODEL

from litedetr.data import Categories
from litedetr.models import DetectorConfig, build_detector
from litedetr.models.detector_config import (
    AttentionConfig,
    DecoderConfig,
    DenoisingConfig,
    EncoderConfig,
    NeckConfig,
    QuerySelectionConfig,
)
from litedetr.models.record_attentions import record_attentions
from litedetr.structures import ImageBatch, Predictions
from litedetr.tools.plots.attention_samples import (
    Samples,
    decoder_samples,
    encoder_samples,
    level_names,
    tokens_at,
)
from litedetr.tools.plots.draw_attention import find_object

FOUR = replace(
    MODEL,
    neck=NeckConfig(channels=16, num_levels=4, norm_groups=4),
    encoder=EncoderConfig(num_high_levels=3, num_high_layers=2, num_blocks=2, feedforward=16),
)
FULL = replace(
    FOUR,
    encoder=EncoderConfig("full", num_layers=2, feedforward=16),
    attention=AttentionConfig("deformable", "deformable", num_heads=2, num_points=2),
)
SYSTEMS = {
    "lite_dino": FOUR,
    "joint": replace(FOUR, encoder=replace(FOUR.encoder, update="joint")),
    "high levels alone": replace(FOUR, encoder=replace(FOUR.encoder, low_level_update=False)),
    "dino_4scale": FULL,
    "deformable_detr": replace(
        FULL,
        query_selection=QuerySelectionConfig(num_queries=8, kind="two_stage"),
        denoising=DenoisingConfig(num_pairs=0),
        decoder=DecoderConfig(2, 16, heads="per_layer", query_position="proposals", look_forward_twice=False),
    ),
}
NAMES = {  # which levels each layer of the encoder updates
    "lite_dino": ["1\nS1-S3", "2\nS1-S3", "3\nS4", "4\nS1-S3", "5\nS1-S3", "6\nS4"],
    "joint": ["1\nS1-S3", "2\nS1-S4", "3\nS1-S3", "4\nS1-S4"],
    "high levels alone": ["1\nS1-S3", "2\nS1-S3", "3\nS1-S3", "4\nS1-S3"],
    "dino_4scale": ["1\nS1-S4", "2\nS1-S4"],
    "deformable_detr": ["1\nS1-S4", "2\nS1-S4"],
}
IMAGE = (96, 160)  # height, width: levels of 12x20, 6x10, 3x5 and 2x3


def detector(config: DetectorConfig) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_detector(config, 3).eval()


def recorded(model: torch.nn.Module):
    images = ImageBatch.from_images([torch.randn(3, *IMAGE, generator=torch.Generator().manual_seed(0))])
    with torch.no_grad(), record_attentions(model) as calls:
        return calls, model(images), images


@pytest.fixture(params=SYSTEMS, scope="module")
def system(request) -> str:
    return request.param


@torch.no_grad()
def test_recording_changes_nothing_and_leaves_nothing_behind(system: str):
    model = detector(SYSTEMS[system])
    calls, output, images = recorded(model)
    number = len(calls)
    again = model(images)
    assert torch.equal(output.predictions.boxes, again.predictions.boxes)
    assert len(calls) == number
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_hooks_go_even_where_the_forward_pass_fails():
    model = detector(MODEL)
    with pytest.raises(AttributeError), record_attentions(model):
        model(None)
    assert not any(module._forward_pre_hooks for module in model.modules())


@torch.no_grad()
def test_a_recorded_call_gives_the_same_again(system: str):
    """Called once more with what was recorded, each attention returns what it returned within the detector."""
    model, outputs = detector(SYSTEMS[system]), []
    for name, module in model.named_modules():
        if name.endswith(("attention", "cross_attention")) and "self" not in name:
            module.register_forward_hook(lambda module, args, output: outputs.append(output))
    calls, _, _ = recorded(model)
    expected = list(outputs)
    assert len(expected) == len(calls) == len(NAMES[system]) + 2
    for call, output in zip(calls, expected, strict=True):
        torch.testing.assert_close(call.attention(call.query, call.reference, call.memory), output)


def test_layers_are_named_by_the_levels_that_they_update(system: str):
    calls, _, _ = recorded(detector(SYSTEMS[system]))
    sampled = encoder_samples(calls, (0.5, 0.5))
    assert [layer.name for layer in sampled.layers] == NAMES[system]
    assert sampled.level_names == ("S4", "S3", "S2", "S1")
    decoder = decoder_samples(calls, 0)
    assert decoder.level_names == (("S3", "S2", "S1") if system == "high levels alone" else sampled.level_names)
    assert [layer.name for layer in decoder.layers] == ["1", "2"]


def test_weights_by_level_sum_to_one_and_are_the_means_of_the_samples(system: str):
    calls, _, _ = recorded(detector(SYSTEMS[system]))
    for sampled in (encoder_samples(calls, (0.9, 0.1)), decoder_samples(calls, 3)):
        assert sampled.level_shares.sum() == pytest.approx(1, abs=1e-6)
        for layer in sampled.layers:
            by_level = np.bincount(layer.samples.level, layer.samples.weight)
            assert by_level / by_level.sum() == pytest.approx(layer.level_shares, abs=1e-6)
        heads_and_queries = sum(2 * layer.num_queries for layer in sampled.layers)
        assert sampled.samples.weight.sum() == pytest.approx(heads_and_queries, abs=1e-4)


def test_the_encoders_queries_are_the_cells_that_hold_the_point():
    """Untrained offsets do not depend on the query: samples are a ring around the centre of the cell."""
    model = detector(FOUR)
    calls, _, _ = recorded(model)
    x, y = 0.61, 0.30
    layer = encoder_samples(calls, (x, y)).layers[2]  # updates S4, 12x20
    centre = np.array([(int(x * 20) + 0.5) / 20, (int(y * 12) + 0.5) / 12])
    attention = next(call.attention for call in calls if call.query_shapes == ((12, 20),))
    offsets = attention.sampling_offsets.bias.detach().view(2, 4, 2, 2).numpy()  # (M, L, P, 2)
    sizes = np.array([(20, 12), (10, 6), (5, 3), (3, 2)])[:, None]
    assert layer.num_queries == 1
    assert layer.samples.xy == pytest.approx((centre + offsets / sizes).reshape(-1, 2), abs=1e-5)


def test_tokens_at():
    assert tokens_at(((4, 6), (2, 3)), (0.4, 0.6)) == [2 * 6 + 2, 24 + 1 * 3 + 1]
    assert tokens_at(((4, 6),), (0.0, 0.0)) == [0]
    assert tokens_at(((4, 6),), (1.0, 1.0)) == [23]  # the far corner belongs to the last cell
    assert level_names(((4, 6), (2, 3))) == ("S2", "S1")


def test_choosing_samples():
    xy = np.array([[0.5, 0.5], [1.1, 0.5], [0.2, -0.1], [1.0, 0.0]])
    samples = Samples(xy, np.array([0, 1, 2, 1]), np.array([0.1, 0.4, 0.3, 0.2]))
    assert samples.num_outside == 2
    assert samples.largest(2).weight.tolist() == [0.4, 0.3]
    assert samples.largest(9).weight.tolist() == [0.4, 0.3, 0.2, 0.1]
    assert samples.finest(2).level.tolist() == [0, 1, 1]


def test_an_object_is_a_detection_by_rank():
    logits = torch.tensor([[[-9.0, 1.0], [2.0, 0.5], [-9.0, -9.0]]])
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.4], [0.25, 0.75, 0.5, 0.5], [0.1, 0.1, 0.1, 0.1]]])
    predictions, categories = Predictions(logits, boxes), Categories(("cat", "dog"), (1, 2))
    found = [find_object(predictions, categories, rank, 0.3) for rank in (1, 2, 3)]
    assert [(o.name, o.query) for o in found] == [("cat", 1), ("dog", 0), ("dog", 1)]
    assert found[0].box == pytest.approx((0.0, 0.5, 0.5, 1.0))
    assert found[0].centre == pytest.approx((0.25, 0.75))
    assert found[0].score == pytest.approx(torch.tensor(2.0).sigmoid().item())
    with pytest.raises(ValueError, match=r"object: expected at most 3, .* score >= min_score=0.3 .*0.881.*, got 4"):
        find_object(predictions, categories, 4, 0.3)
