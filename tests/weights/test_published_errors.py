"""What does not fit is said, by name, and nothing is guessed."""

import re

import pytest
import torch
from published_helpers import Variant, state_dict

from litedetr.settings import ConfigError
from litedetr.weights import PublishedWeightsError, load_published

FULL = Variant(ends=(), encoder_keys="none", decoder_keys="none")


def refusal(state: dict[str, torch.Tensor], num_high_levels: int | None = 3) -> str:
    with pytest.raises(PublishedWeightsError) as refused:
        load_published(state, num_high_levels)
    return str(refused.value)


def test_everything_wrong_is_listed_at_once():
    state = state_dict(Variant())
    state["transformer.encoder.layers.2.norm9.weight"] = torch.ones(32)
    state["who.knows"] = torch.ones(1)
    del state["transformer.decoder.layers.1.norm3.bias"]
    del state["class_embed.1.weight"]
    state["input_proj.1.0.weight"] = torch.ones(32, 17, 1, 1)
    message = refusal(state)
    assert "\n  names that fit nothing: transformer.encoder.layers.2.norm9.weight, who.knows\n" in message
    assert re.search(r"\n  missing: .*transformer\.decoder\.layers\.1\.norm3\.bias", message)
    assert re.search(r"\n  missing: .*class_embed\.1\.weight", message)
    assert message.endswith("\n  wrong shape: input_proj.1.0.weight (32, 17, 1, 1), not (32, 32, 1, 1)")


@pytest.mark.parametrize(
    "name",
    [
        "transformer.level_embed",
        "transformer.tgt_embed.weight",
        "transformer.decoder.layers.0.linear1.weight",
        "transformer.encoder.layers.0.self_attn.sampling_offsets.bias",
        "class_embed.0.weight",
        "transformer.decoder.bbox_embed.1.layers.2.bias",
        "label_enc.weight",
        "transformer.decoder.layers.0.self_attn.in_proj_bias",
        "backbone.0.body.layer3.1.bn2.running_var",
    ],
)
def test_a_missing_name_is_named(name: str):
    state = state_dict(Variant())
    del state[name]
    assert re.search(rf"missing: {re.escape(name)}", refusal(state))


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("label_enc.weight", (91, 32), "label_enc.weight (91, 32), not (92, 32)"),
        ("label_enc.weight", (93, 32), "label_enc.weight (93, 32), not (92, 32)"),
        ("transformer.decoder.layers.0.self_attn.in_proj_weight", (64, 32), "in_proj_weight (64, 32), not (96, 32)"),
        ("class_embed.1.bias", (90,), "class_embed.1.bias (90,), not (91,)"),
        ("transformer.enc_out_class_embed.weight", (80, 32), "enc_out_class_embed.weight (80, 32), not (91, 32)"),
        ("transformer.level_embed", (4,), "transformer.level_embed (4,), expected 2 dimensions"),
    ],
)
def test_a_wrong_shape_is_named_with_the_right_one(name: str, shape: tuple[int, ...], expected: str):
    message = refusal(state_dict(Variant()) | {name: torch.ones(shape)})
    assert "wrong shape: " in message
    assert expected in message


@pytest.mark.parametrize("high", [0, 4, 5, -1, 2.0, True])
def test_high_levels_that_cannot_be_are_refused(high: object):
    with pytest.raises(
        ConfigError, match=r"num_high_levels: expected an integer in 1\.\.3 \(there are 4 levels\), got"
    ):
        load_published(state_dict(Variant()), high)


def test_high_levels_are_asked_for_and_never_guessed():
    with pytest.raises(ConfigError, match=r"num_high_levels: expected an integer in 1\.\.3.*H3L1 has 3"):
        load_published(state_dict(Variant()), None)


def test_a_full_encoder_has_none():
    with pytest.raises(ConfigError, match=r"num_high_levels: expected null \(None\): .*no layer has a linear12, got 3"):
        load_published(state_dict(FULL), 3)


@pytest.mark.parametrize("ends", [(1, 5), (2, 4), (2,), (0, 1, 5)])
def test_uneven_blocks_are_refused(ends: tuple[int, ...]):
    message = refusal(state_dict(Variant(ends=ends)))
    assert "blocks of equal length" in message
    assert f"of 6 layers these do: {', '.join(map(str, ends))}" in message


def test_half_a_low_level_part_still_ends_its_block():
    state = state_dict(Variant(ends=(2, 5)))
    del state["transformer.encoder.layers.2.linear22.weight"]
    assert "missing: transformer.encoder.layers.2.linear22.weight" in refusal(state)


def test_an_unknown_backbone_is_refused():
    state = {name: value for name, value in state_dict(Variant()).items() if ".layer3.1." not in name}
    assert "stages of (2, 2, 1, 2) blocks of two convolutions are none of resnet18" in refusal(state)
    state = {name: value for name, value in state_dict(Variant()).items() if not name.startswith("backbone.")}
    assert "stages of (0, 0, 0, 0) blocks" in refusal(state)


def test_offsets_that_no_number_of_points_gives_are_refused():
    name = "transformer.encoder.layers.0.self_attn.sampling_offsets.bias"
    message = refusal(state_dict(Variant()) | {name: torch.ones(250)})
    assert f"{name}: expected a multiple of 64 (2 x 8 heads x 4 levels) entries, got 250" in message


def test_heads_of_their_own_are_refused():
    """Ours are shared by all decoder layers, as published."""
    state = state_dict(Variant())
    state["class_embed.1.bias"] = state["class_embed.1.bias"] + 1
    assert "heads that differ between decoder layers, which here share one: class_embed.1.bias" in refusal(state)


def test_keys_of_the_decoder_would_be_used():
    """The published code never writes them; a tensor that is there is not dropped in silence."""
    model = load_published(state_dict(Variant(decoder_keys="own")), 3)
    assert model.config.attention.decoder == "key_aware"


def test_an_unused_query_projection_is_dropped_only_where_it_is_unused():
    state = state_dict(Variant())
    del state["transformer.encoder.layers.1.self_attn.query_proj.weight"]
    assert "missing: transformer.encoder.layers.1.self_attn.query_proj.weight" in refusal(state)
    plain = {name: value for name, value in state_dict(FULL).items() if ".query_proj." not in name}
    assert load_published(plain, None).config.encoder.update == "full"
    assert "names that fit nothing: a.query_proj.weight" in refusal(
        plain | {"a.query_proj.weight": torch.ones(1)}, None
    )


def test_counters_of_batch_norms_are_dropped():
    state = state_dict(Variant()) | {"backbone.0.body.bn1.num_batches_tracked": torch.tensor(7)}
    assert load_published(state, 3) is not None
    assert "transformer.num_batches_tracked" in refusal(state | {"transformer.num_batches_tracked": torch.tensor(7)})


def test_very_many_names_are_counted():
    extra = {f"more.{i}": torch.ones(1) for i in range(50)}
    assert "more.19 and 30 more" in refusal(state_dict(Variant()) | extra)
