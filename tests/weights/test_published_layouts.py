"""State dicts of other configurations of the published code: what they are is read from names and shapes."""

import hashlib
from dataclasses import replace

import pytest
import torch
from published_helpers import PAPER, Variant, fill_value, from_json, published_shapes, state_dict, vectors

from litedetr.models import Detector
from litedetr.models.detector_config import AttentionConfig, EncoderConfig
from litedetr.structures import ImageBatch, Target, TargetBatch
from litedetr.weights import load_published

VARIANTS = {
    "H3L1-(6+1)x1": (Variant(), 3),
    "H3L1-(3+1)x2": (Variant(ends=(2, 5)), 3),
    "H3L1-(2+1)x3": (Variant(ends=(1, 3, 5)), 3),
    "H2L2-(2+1)x3": (Variant(ends=(1, 3, 5)), 2),
    "own keys": (Variant(ends=(3,), encoder_layers=4, encoder_keys="own"), 3),
    "no key-aware attention": (Variant(encoder_keys="none", decoder_keys="none"), 3),
    "key-aware in the decoder alone": (Variant(encoder_keys="none"), 3),
    "DINO, 4 scales": (Variant(ends=(), encoder_keys="none", decoder_keys="none", backbone=50), None),
    "DINO, 2 scales": (Variant(ends=(), levels=2, encoder_keys="none", decoder_keys="none"), None),
    "H4L1, 5 scales": (Variant(levels=5, ends=(2, 5)), 4),
    "ResNet-34, 2 points, other widths": (
        Variant(backbone=34, points=2, low_hidden=24, classes=20, queries=7, decoder_layers=3, channels=64),
        3,
    ),
}


@pytest.fixture(scope="module", params=VARIANTS, ids=list(VARIANTS))
def loaded(request: pytest.FixtureRequest) -> tuple[Variant, dict[str, torch.Tensor], Detector]:
    variant, num_high_levels = VARIANTS[request.param]
    torch.manual_seed(0)
    state = state_dict(variant)
    return variant, state, load_published(state, num_high_levels)


def test_the_helper_writes_what_the_published_code_wrote():
    theirs = {name: tuple(shape) for name, shape in from_json(vectors()["state_shapes"]).items()}
    assert published_shapes(PAPER) == theirs


def test_every_value_lands_and_none_is_invented(loaded: tuple[Variant, dict[str, torch.Tensor], Detector]):
    """The values of our tensors are those of the published ones: all of them, once each, and no others."""
    variant, state, model = loaded
    theirs = set()
    for name, tensor in state.items():
        if "in_proj" in name:
            theirs |= {digest(tensor[: 2 * variant.channels]), digest(tensor[2 * variant.channels :])}
        elif name == "label_enc.weight":
            theirs.add(digest(tensor[:-1]))
        elif not (is_attention_query(name) and keys_of(variant, name) == "none"):
            theirs.add(digest(tensor))
    ours = [digest(tensor) for tensor in model.state_dict().values()]
    assert set(ours) == theirs
    assert len(ours) == len(theirs)


def digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def is_attention_query(name: str) -> bool:
    return ".query_proj." in name


def keys_of(variant: Variant, name: str) -> str:
    return variant.encoder_keys if ".encoder." in name else variant.decoder_keys


def test_one_forward_pass_runs(loaded: tuple[Variant, dict[str, torch.Tensor], Detector]):
    variant, _, model = loaded
    images = ImageBatch.from_images([torch.randn(3, 96, 160), torch.randn(3, 96, 96)])
    targets = TargetBatch.from_targets(
        [Target(torch.tensor([variant.classes - 1]), torch.full((1, 4), 0.4), 0, (96, 160))] * 2
    )
    with torch.no_grad():
        output = model(images, targets)
    assert len(output.layers) == variant.decoder_layers
    assert output.predictions.class_logits.shape[1:] == (variant.queries, variant.classes)
    assert output.predictions.boxes.isfinite().all()
    assert output.predictions.class_logits.isfinite().all()


def test_the_detector_is_the_published_one(loaded: tuple[Variant, dict[str, torch.Tensor], Detector]):
    variant, _, model = loaded
    config = model.config
    kinds = {"shared": "key_aware_shared", "own": "key_aware", "none": "deformable"}
    expected = AttentionConfig(kinds[variant.encoder_keys], kinds[variant.decoder_keys], 8, variant.points)
    assert config.attention == expected
    assert (config.neck.channels, config.neck.num_levels) == (variant.channels, variant.levels)
    assert (config.backbone.name, config.backbone.width) == (f"resnet{variant.backbone}", variant.width)
    assert config.query_selection.num_queries == variant.queries
    assert (config.decoder.num_layers, config.decoder.feedforward) == (variant.decoder_layers, variant.decoder_hidden)
    assert model.num_classes == variant.classes
    assert config.padding == "published"
    assert not model.training


@pytest.mark.parametrize(
    ("name", "encoder"),
    [
        ("H3L1-(6+1)x1", EncoderConfig("joint", 3, 6, 1, feedforward=48)),
        ("H3L1-(3+1)x2", EncoderConfig("joint", 3, 3, 2, feedforward=48)),
        ("H3L1-(2+1)x3", EncoderConfig("joint", 3, 2, 3, feedforward=48)),
        ("H2L2-(2+1)x3", EncoderConfig("joint", 2, 2, 3, feedforward=48)),
        ("H4L1, 5 scales", EncoderConfig("joint", 4, 3, 2, feedforward=48)),
        ("DINO, 4 scales", EncoderConfig("full", None, None, None, 6, 48)),
        ("ResNet-34, 2 points, other widths", EncoderConfig("joint", 3, 6, 1, feedforward=48, low_feedforward=24)),
    ],
)
def test_the_encoder_is_read_from_where_blocks_end(name: str, encoder: EncoderConfig):
    variant, num_high_levels = VARIANTS[name]
    assert load_published(state_dict(variant), num_high_levels).config.encoder == encoder


def test_blocks_of_several_layers_land_in_order():
    model = load_published(state_dict(Variant(ends=(2, 5))), 3)
    places = {
        "encoder.blocks.0.high_layers.1.attention.value_proj.weight": "encoder.layers.1.self_attn.value_proj.weight",
        "encoder.blocks.0.joint_layer.feedforward.linear1.weight": "encoder.layers.2.linear1.weight",
        "encoder.blocks.1.high_layers.0.norm.weight": "encoder.layers.3.norm1.weight",
        "encoder.blocks.1.joint_layer.low_feedforward.linear2.weight": "encoder.layers.5.linear22.weight",
        "encoder.blocks.1.joint_layer.low_feedforward.norm.bias": "encoder.layers.5.norm22.bias",
        "encoder.blocks.1.joint_layer.feedforward.norm.bias": "encoder.layers.5.norm2.bias",
    }
    assert_holds(model, {ours: f"transformer.{theirs}" for ours, theirs in places.items()})


def test_own_keys_and_plain_weights_land():
    own = load_published(state_dict(Variant(encoder_keys="own")), 3)
    key = "key_proj.weight"
    assert_holds(
        own, {f"encoder.blocks.0.high_layers.2.attention.{key}": f"transformer.encoder.layers.2.self_attn.{key}"}
    )
    plain = load_published(state_dict(Variant(ends=(), encoder_keys="none", decoder_keys="none")), None)
    weights = "attention_weights.bias"
    layer = "layers.4.attention"
    assert_holds(plain, {f"encoder.blocks.0.{layer}.{weights}": f"transformer.encoder.layers.4.self_attn.{weights}"})
    assert_holds(
        plain, {f"decoder.layers.1.cross_attention.{weights}": f"transformer.decoder.layers.1.cross_attn.{weights}"}
    )
    assert not [name for name in plain.state_dict() if "query_proj" in name]


def test_five_scales_take_four_maps_of_the_backbone():
    model = load_published(state_dict(Variant(levels=5)), 4)
    assert_holds(
        model,
        {
            "neck.projections.0.conv.weight": "input_proj.0.0.weight",
            "neck.projections.3.norm.weight": "input_proj.3.1.weight",
            "neck.extra.0.conv.bias": "input_proj.4.0.bias",
        },
    )


def test_the_last_row_of_the_label_table_is_left_out():
    model = load_published(state_dict(Variant(classes=5)), 3)
    assert torch.equal(model.denoising.labels.weight, filled("label_enc.weight", (6, 32))[:5])


def assert_holds(model: Detector, places: dict[str, str]) -> None:
    own = model.state_dict()
    for ours, theirs in places.items():
        assert torch.equal(own[ours], filled(theirs, tuple(own[ours].shape))), ours


def filled(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(fill_value(name, shape))


def test_dino_jitters_less_than_lite_dino():
    """Both denoise, at their own scales; it matters to fine-tuning alone."""
    full = Variant(ends=(), encoder_keys="none", decoder_keys="none")
    assert load_published(state_dict(full), None).config.denoising.box_noise == 0.4
    assert load_published(state_dict(Variant()), 3).config.denoising.box_noise == 1.0


def test_the_high_levels_change_what_is_computed():
    """No name shows them: the same weights are two detectors."""
    state = state_dict(Variant(ends=(1, 3, 5)))
    images = ImageBatch.from_images([torch.randn(3, 64, 96, generator=torch.Generator().manual_seed(0))])
    with torch.no_grad():
        three, two = (load_published(state, high)(images).predictions.boxes for high in (3, 2))
    assert (three - two).abs().max() > 1e-4


def test_deeper_backbones_are_told_apart():
    for depth in (18, 34, 50, 101):
        state = state_dict(replace(Variant(), backbone=depth))
        assert load_published(state, 3).config.backbone.name == f"resnet{depth}"
