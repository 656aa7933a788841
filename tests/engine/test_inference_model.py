"""The copy of a detector that only detects."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from engine_helpers import MODEL
from torch import nn

from litedetr.engine.detect import Forward, detect, inference_copy
from litedetr.engine.ema import ModelAverage
from litedetr.models import Detector, build_detector
from litedetr.models.detector_config import BackboneConfig
from litedetr.structures import ImageBatch
from litedetr.tools.export.deployed_detector import DeployedDetector

CPU = torch.device("cpu")
FROZEN = replace(MODEL, backbone=BackboneConfig(name="resnet18", norm="frozen", frozen_stages=1, width=16))


def detector(config=FROZEN) -> Detector:
    """With norms that do something, and boxes that differ."""
    torch.manual_seed(0)
    model = build_detector(config, 3)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.add_(0.05 * torch.rand_like(tensor))
    return model


def images() -> ImageBatch:
    torch.manual_seed(1)
    return ImageBatch.from_images([torch.randn(3, 64, 96), torch.randn(3, 50, 80)])


def found(model: nn.Module, precision: str = "fp32") -> torch.Tensor:
    return Forward(model, precision)(images())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("config", [FROZEN, MODEL], ids=["frozen", "group"])
def test_it_detects_the_same_bits(config, precision: str):
    model = detector(config).eval()
    own = inference_copy(model, CPU, precision)
    expected = found(model, precision)
    assert expected.isfinite().all()
    assert torch.equal(found(own, precision), expected)


def test_weights_of_products_are_lowered_and_others_are_not():
    own = inference_copy(detector(), CPU, "bf16")
    assert own.backbone.conv1.weight.dtype == own.backbone.conv1.bias.dtype == torch.bfloat16
    assert own.encoder.blocks[0].low_layer.feedforward.linear1.weight.dtype == torch.bfloat16
    assert own.decoder.norm.weight.dtype == own.neck.level_embedding.dtype == torch.float32
    assert inference_copy(detector(), CPU, "fp32").backbone.conv1.weight.dtype == torch.float32


def test_the_model_it_was_made_of_stays_as_it_is():
    model = detector().train()
    names, values = list(model.state_dict()), copy.deepcopy(model.state_dict())
    trained = [p.requires_grad for p in model.parameters()]
    own = inference_copy(model, CPU, "bf16")
    assert model.training
    assert not own.training
    assert list(model.state_dict()) == names
    assert all(torch.equal(value, values[name]) for name, value in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == trained
    assert not any(p.requires_grad for p in own.parameters())
    storages = {x.untyped_storage().data_ptr() for x in model.state_dict().values()}
    assert not storages & {x.untyped_storage().data_ptr() for x in own.state_dict().values()}


@torch.no_grad()
def test_an_exported_graph_has_its_norms_in_the_convolutions_too():
    model = detector().eval()
    images = torch.randint(256, (1, 3, 64, 96), dtype=torch.uint8)
    graph = DeployedDetector(copy.deepcopy(model))
    assert not any("running_mean" in name for name in graph.state_dict())
    pixels = images.float().div(255).sub(graph.mean).div(graph.std)
    expected = model(ImageBatch(pixels, torch.tensor([[64, 96]]), False)).predictions
    assert torch.equal(graph.predict(images)[0].class_logits, expected.class_logits)


def step(model: Detector) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model.backbone.conv1.requires_grad_(True)
    sum(p.square().sum() for p in model.backbone.parameters() if p.requires_grad).backward()
    optimizer.step()


def follow(model: Detector) -> None:
    other = ModelAverage(model, 0.5)
    other.model.load_state_dict({name: value + 0.1 for name, value in model.state_dict().items()})
    average = ModelAverage(model, 0.5)
    average.update(other.model, 10)
    model.load_state_dict(average.model.state_dict())


CHANGES = {
    "load_state_dict": lambda model: model.load_state_dict({n: v * 1.1 for n, v in model.state_dict().items()}),
    "a step of an optimiser": step,
    "a moving average": follow,
    "data": lambda model: model.backbone.conv1.weight.data.mul_(2),
    "a norm's buffer": lambda model: model.backbone.layer3[0].bn1.running_mean.add_(0.3),
    "another precision": lambda model: model.double().float(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_nothing_folded_is_stale(change):
    """What happens to the model is seen by the model at once and by the next copy, and not by an earlier copy."""
    model = detector().eval()
    found(model)
    early = inference_copy(model, CPU, "fp32")
    before = found(early)
    change(model)
    assert torch.equal(found(early), before)
    # A model that was never run with other weights tells what is right.
    fresh = build_detector(FROZEN, 3).eval()
    fresh.load_state_dict(model.state_dict())
    expected = found(fresh)
    assert torch.equal(found(model), expected)
    assert torch.equal(found(inference_copy(model, CPU, "fp32")), expected)


def test_detections_come_in_one_copy():
    """Of an image with padding, whose queries on padding are left out, and of one without."""
    model = detector().eval()
    packed = found(model)
    sizes = [(64, 96), (50, 80)]
    for one, pairs in zip(detect(model, images(), sizes, "fp32"), packed, strict=True):
        kept = pairs[pairs[:, 1] >= 0]
        assert torch.equal(one.scores, kept[:, 0])
        assert torch.equal(one.labels, kept[:, 1].long())
