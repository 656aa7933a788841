"""The order in which the interleaved encoder reads and writes its token groups."""

import pytest
import torch
from model_helpers import FULL, small_config, small_detector

from litedetr.models.detector_config import EncoderConfig
from litedetr.models.position import reference_points
from litedetr.settings import ConfigError


def memory_and_pyramid(model, batch):
    pyramid = model.neck(model.backbone(batch), batch)
    return model.encoder(pyramid).tokens, pyramid


def layer_by_hand(layer, pyramid, tokens, group, feedforward=None):
    """One post-norm layer on the tokens of `group`, reading all of `tokens`."""
    pyramid = pyramid.with_tokens(tokens)
    query = tokens[:, group]
    reference = reference_points(pyramid)[:, group]
    attended = layer.norm(query + layer.attention(query + pyramid.position[:, group], reference, pyramid))
    return (feedforward or layer.feedforward)(attended)


@pytest.mark.parametrize("num_high", [1, 2, 3])
def test_sequential_is_equations_1_and_2(batch, num_high):
    model = small_detector(encoder={"num_high_levels": num_high, "num_high_layers": 3, "num_blocks": 2})
    memory, pyramid = memory_and_pyramid(model, batch)
    num_low = sum(pyramid.level_sizes[:-num_high])
    low, high = pyramid.tokens[:, :num_low], pyramid.tokens[:, num_low:]
    for block in model.encoder.blocks:
        for layer in block.high_layers:
            high = layer_by_hand(layer, pyramid, torch.cat([low, high], 1), slice(num_low, None))
        low = layer_by_hand(block.low_layer, pyramid, torch.cat([low, high], 1), slice(0, num_low))
    torch.testing.assert_close(memory, torch.cat([low, high], 1), atol=1e-12, rtol=0)


def test_joint_updates_both_groups_from_the_same_tokens(batch):
    model = small_detector(encoder={"update": "joint", "num_high_layers": 3, "num_blocks": 2})
    memory, pyramid = memory_and_pyramid(model, batch)
    num_low = pyramid.level_sizes[0]
    tokens = pyramid.tokens
    for block in model.encoder.blocks:
        for layer in block.high_layers:
            high = layer_by_hand(layer, pyramid, tokens, slice(num_low, None))
            tokens = torch.cat([tokens[:, :num_low], high], 1)
        last = block.joint_layer
        low = layer_by_hand(last, pyramid, tokens, slice(0, num_low), last.low_feedforward)
        tokens = torch.cat([low, layer_by_hand(last, pyramid, tokens, slice(num_low, None))], 1)
    torch.testing.assert_close(memory, tokens, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("update", "num_layers"), [("sequential", 7), ("joint", 6)])
def test_h3l1_6_1_has_the_papers_layers(update, num_layers):
    model = small_detector(encoder={"update": update, "num_high_layers": 6, "num_blocks": 1})
    attentions = [name for name, _ in model.encoder.named_modules() if name.endswith("attention")]
    assert len(attentions) == num_layers


@pytest.mark.parametrize("num_high", [2, 3])
def test_without_low_level_update_s4_is_read_and_never_written(batch, num_high):
    """Table 5, "+HL": the memory has the high levels alone, as a baseline that drops S4, but they have read S4."""
    encoder = {"num_high_levels": num_high, "num_high_layers": 3, "num_blocks": 2, "low_level_update": False}
    model = small_detector(encoder=encoder)
    pyramid = model.neck(model.backbone(batch), batch)
    memory = model.encoder(pyramid)
    num_low = sum(pyramid.level_sizes[:-num_high])
    low, high = pyramid.tokens[:, :num_low], pyramid.tokens[:, num_low:]
    for layer in [layer for block in model.encoder.blocks for layer in block.high_layers]:
        high = layer_by_hand(layer, pyramid, torch.cat([low, high], 1), slice(num_low, None))
    torch.testing.assert_close(memory.tokens, high, atol=1e-12, rtol=0)
    assert memory.shapes == pyramid.shapes[-num_high:]
    for name in ("position", "valid_ratios"):
        part = getattr(pyramid, name)[:, num_low if name == "position" else -num_high :]
        assert torch.equal(getattr(memory, name), part)
    blind = model.encoder(pyramid.with_tokens(torch.cat([torch.zeros_like(low), pyramid.tokens[:, num_low:]], 1)))
    assert not torch.allclose(blind.tokens, memory.tokens)
    assert not [name for name, _ in model.named_parameters() if "low_layer" in name]
    assert model.decoder.layers[0].cross_attention.grid[1] == num_high


def test_a_full_encoder_has_no_interleaved_defaults():
    made = EncoderConfig(update="full", num_layers=6)
    assert (made.num_high_levels, made.num_high_layers, made.num_blocks) == (None, None, None)
    made = EncoderConfig()
    assert (made.num_high_levels, made.num_high_layers, made.num_blocks) == (3, 6, 1)


def test_low_level_feedforward_is_narrow():
    block = small_detector().encoder.blocks[0]
    assert block.low_layer.feedforward.linear1.out_features == 16  # C
    assert block.high_layers[0].feedforward.linear1.out_features == 24


@pytest.mark.parametrize("num_levels", [1, 2, 3, 5, 6])
def test_any_number_of_levels(batch, num_levels):
    full = {"update": "full", "num_layers": 1, "num_high_levels": None, "num_high_layers": None, "num_blocks": None}
    encoder = full if num_levels == 1 else {"num_high_levels": num_levels - 1}
    model = small_detector(neck={"num_levels": num_levels}, encoder=encoder)
    pyramid = model.neck(model.backbone(batch), batch)
    assert len(pyramid.shapes) == num_levels
    assert model.encoder(pyramid).tokens.shape == pyramid.tokens.shape
    assert model(batch).predictions.boxes.isfinite().all()


def test_three_scales_leave_s4_out(batch):
    three, four = small_detector(neck={"num_levels": 3}, encoder={"num_high_levels": 2}), small_detector()
    shapes = [model.neck(model.backbone(batch), batch).shapes for model in (three, four)]
    assert shapes[0] == shapes[1][1:] == ((6, 8), (3, 4), (2, 2))


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_activation_checkpointing_changes_no_gradient(batch, part: str):
    grads = []
    for checkpointing in (False, True):
        model = small_detector(**{part: {"activation_checkpointing": checkpointing}}).train()
        model(batch).predictions.boxes.sum().backward()
        grads.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("encoder", {"num_high_layers": 0}, r"encoder.num_high_layers: expected at least 1, got 0"),
        ("encoder", {"num_blocks": 0}, r"encoder.num_blocks: expected at least 1, got 0"),
        ("encoder", {"num_high_levels": 4}, "encoder.num_high_levels: expected an integer in 1..3 .*, got 4"),
        ("encoder", {"num_high_levels": 0}, "encoder.num_high_levels: expected at least 1, got 0"),
        ("encoder", {"update": "full", "num_layers": 6}, "encoder.num_high_levels: expected null"),
        ("encoder", {"num_layers": 6}, "encoder.num_layers: expected null"),
        (
            "encoder",
            {"update": "joint", "low_level_update": False},
            "encoder.low_level_update: expected true with .*joint",
        ),
        ("encoder", {**FULL, "low_level_update": False}, "encoder.low_level_update: expected true with .*full"),
        (
            "encoder",
            {"low_level_update": False, "low_feedforward": 8},
            "encoder.low_feedforward: expected null with",
        ),
        ("encoder", {"dropout": 1.0}, "encoder.dropout: expected less than 1, got 1.0"),
        ("decoder", {"dropout": -0.1}, "decoder.dropout: expected at least 0, got -0.1"),
        ("decoder", {"heads": "own"}, "decoder.heads: expected one of 'shared' or 'per_layer'"),
        ("decoder", {"query_position": "proposals"}, "decoder.query_position: expected reference with .*kind=mixed"),
        ("query_selection", {"kind": "two_stage"}, "decoder.query_position: expected proposals with .*kind=two_stage"),
        ("query_selection", {"kind": "one_stage"}, "query_selection.kind: expected one of"),
        ("hybrid", {"num_queries": -1}, "hybrid.num_queries: expected at least 0, got -1"),
        ("hybrid", {"num_repeats": 0}, "hybrid.num_repeats: expected at least 1, got 0"),
        ("encoder", {"update": "both"}, "encoder.update: expected one of"),
        ("encoder", {"blocks": 2}, "encoder.blocks: expected one of"),
        ("neck", {"norm_groups": 0}, "neck.norm_groups: expected at least 1, got 0"),
        ("neck", {"norm_groups": -4}, "neck.norm_groups: expected at least 1, got -4"),
        ("neck", {"num_levels": 1}, "neck.num_levels: expected at least 2 with encoder.update=sequential.*, got 1"),
        ("encoder", {"low_feedforward": -1}, "encoder.low_feedforward: expected at least 1, got -1"),
        ("encoder", {"low_feedforward": 0}, "encoder.low_feedforward: expected at least 1, got 0"),
        ("decoder", {"num_layers": 10**6}, "decoder.num_layers: expected at most 100, got 1000000"),
        ("backbone", {"width": 2**40}, "backbone.width: expected at most 65536, got"),
        ("attention", {"num_heads": 3}, "attention.num_heads: expected a divisor of neck.channels"),
        ("backbone", {"name": "resnet19"}, "backbone.name: expected one of"),
        ("neck", {"channels": 18}, "neck.channels: expected a multiple of 4, got 18"),
        ("query_selection", {"num_queries": 0}, "query_selection.num_queries: expected at least 1"),
    ],
)
def test_what_cannot_work_is_refused_by_name(section, change, message):
    from litedetr.models import build_detector

    with pytest.raises(ConfigError, match=message):
        build_detector(small_config(**{section: change}), 3)
