"""The numbers of the published code itself, from the same weights, in double precision.

tests/data/published_h3l1_a6_b1.npz holds what it computes for H3L1-(6+1)x1 with a ResNet-50, on two images of
different sizes, its weights filled by `fill_value`. 1e-9 leaves room for another order of sums and for nothing else.
"""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from published_helpers import fill_value, from_json, vectors

from litedetr.losses import Branch, Criterion, LossConfig, Losses
from litedetr.losses.parts import LossName
from litedetr.models import Detector
from litedetr.postprocess import pack, unpack
from litedetr.structures import Detections, DetectorOutput, ImageBatch, Target, TargetBatch
from litedetr.weights import load_published

TOLERANCE = 1e-9
TERMS = {"ce": "classes", "bbox": "l1", "giou": "giou"}
LAST_LAYER = 5


@dataclass(frozen=True)
class Run:
    """A forward and a backward pass. gradients: by our parameter names."""

    memory: torch.Tensor
    output: DetectorOutput
    detections: list[Detections]
    losses: Losses
    gradients: dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    return vectors()


@pytest.fixture(scope="module")
def run(expected: dict[str, np.ndarray]) -> Run:
    filled_as = from_json(expected["fill_names"])
    shapes = from_json(expected["state_shapes"])
    state = {name: torch.from_numpy(fill_value(filled_as[name], tuple(shape))) for name, shape in shapes.items()}
    return _run(load_published(state, num_high_levels=3).double())


def _run(model: Detector) -> Run:
    memories = []
    model.encoder.register_forward_hook(lambda module, inputs, memory: memories.append(memory.tokens.detach()))
    output = model(_images())
    losses = Criterion(LossConfig())(output, _targets())
    losses.total.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return Run(memories[0], output, unpack(pack(output.predictions), [(480, 640), (448, 576)]), losses, gradients)


def _images() -> ImageBatch:
    random = np.random.RandomState(7)
    sizes = [(256, 320), (224, 288)]
    return ImageBatch.from_images([torch.from_numpy(random.standard_normal((3, h, w))) for h, w in sizes])


def _targets() -> TargetBatch:
    """Five objects in the first image, none in the second; labels are raw category ids."""
    random = np.random.RandomState(11)
    targets = []
    for number in (5, 0):
        centre, size = random.uniform(0.25, 0.75, (number, 2)), random.uniform(0.05, 0.45, (number, 2))
        labels = torch.from_numpy(random.randint(1, 91, number).astype(np.int64))
        boxes = torch.from_numpy(np.concatenate([centre, size], axis=1))
        targets.append(Target(labels, boxes, image_id=0, original_size=(1, 1)))
    return TargetBatch.from_targets(targets)


def assert_close(ours: torch.Tensor, published: np.ndarray) -> None:
    """Relative to the largest value."""
    assert ours.shape == published.shape
    assert ours.dtype == torch.float64
    assert np.abs(ours.detach().numpy() - published).max() <= TOLERANCE * np.abs(published).max()


def test_memory(run: Run, expected: dict[str, np.ndarray]):
    assert_close(run.memory[:, ::29], expected["memory_every_29"])


def test_proposals(run: Run, expected: dict[str, np.ndarray]):
    assert_close(run.output.proposals.boxes, expected["interm_boxes"])


def test_logits_and_boxes(run: Run, expected: dict[str, np.ndarray]):
    assert_close(run.output.predictions.class_logits[:, :100], expected["pred_logits_q0_100"])
    assert_close(run.output.predictions.boxes, expected["pred_boxes"])


def test_detections(run: Run, expected: dict[str, np.ndarray]):
    for i, found in enumerate(run.detections):
        assert_close(found.scores, expected["scores"][i])
        assert_close(found.boxes, expected["boxes_xyxy"][i])
        assert found.labels.tolist() == expected["labels"][i].tolist()


def test_losses(run: Run, expected: dict[str, np.ndarray]):
    """All 39: the published ones without denoising are zero in its part, ours are not there."""
    values = dict(zip(from_json(expected["loss_names"]), expected["loss_values"], strict=True))
    assert len(values) == 39
    denoising = {name for name in values if "_dn" in name}
    assert len(denoising) == 18
    assert all(values[name] == 0 for name in denoising)
    theirs = {_loss_name(name): value for name, value in values.items() if name not in denoising}
    ours = {part.name: part.value.item() for part in run.losses.parts}
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, rel=TOLERANCE), name
    assert run.losses.total.item() == pytest.approx(expected["loss_total"].item(), rel=TOLERANCE)


def _loss_name(published: str) -> LossName:
    """`loss_ce_3` is of decoder layer 3, `loss_ce` of the last one, `loss_ce_interm` of the proposals."""
    _, kind, *suffix = published.split("_")
    if suffix == ["interm"]:
        return LossName(Branch.PROPOSALS, 0, TERMS[kind])
    return LossName(Branch.DECODER, int(suffix[0]) if suffix else LAST_LAYER, TERMS[kind])


# Some of each kind, spelled out: the other names are found by their place in the order of the layers.
OUR_NAMES = {
    "transformer.level_embed": "neck.level_embedding",
    "input_proj.0.0.weight": "neck.projections.0.conv.weight",
    "input_proj.3.1.bias": "neck.extra.0.norm.bias",
    "backbone.0.body.layer2.0.conv1.weight": "backbone.layer2.0.conv1.weight",
    "backbone.0.body.layer4.2.conv3.weight": "backbone.layer4.2.conv3.weight",
    "transformer.tgt_embed.weight": "query_selection.content.weight",
    "transformer.enc_output.weight": "query_selection.output.weight",
    "transformer.enc_output_norm.bias": "query_selection.norm.bias",
    "transformer.enc_out_class_embed.bias": "query_selection.head.classes.bias",
    "transformer.enc_out_bbox_embed.layers.2.weight": "query_selection.head.box.layers.2.weight",
    "transformer.decoder.norm.weight": "decoder.norm.weight",
    "transformer.decoder.ref_point_head.layers.1.weight": "decoder.position.layers.1.weight",
    "transformer.encoder.layers.5.linear12.weight": "encoder.blocks.0.joint_layer.low_feedforward.linear1.weight",
    "transformer.encoder.layers.5.norm22.weight": "encoder.blocks.0.joint_layer.low_feedforward.norm.weight",
}


def test_gradient_norms_by_name(run: Run, expected: dict[str, np.ndarray]):
    norms = from_json(expected["grad_norms"])
    for published, ours in OUR_NAMES.items():
        assert run.gradients[ours].norm().item() == pytest.approx(norms[published], rel=TOLERANCE), published
    for i in range(6):
        theirs = f"transformer.decoder.layers.{i}."
        for kind in ("weight", "bias"):
            split = [
                run.gradients[f"decoder.layers.{i}.self_attention.{part}.{kind}"] for part in ("query_key", "value")
            ]
            joint = torch.cat(split).norm().item()
            assert joint == pytest.approx(norms[f"{theirs}self_attn.in_proj_{kind}"], rel=TOLERANCE)
        for published, ours in (("norm1", "cross_norm"), ("norm2", "self_norm"), ("norm3", "feedforward.norm")):
            norm = run.gradients[f"decoder.layers.{i}.{ours}.weight"].norm().item()
            assert norm == pytest.approx(norms[f"{theirs}{published}.weight"], rel=TOLERANCE)


def test_all_gradient_norms(run: Run, expected: dict[str, np.ndarray]):
    """As sorted lists, in which no parameter can hide: each of theirs is one of ours, but for two of their own kind.

    Query, key and value are one tensor there and two here; the label table gets no gradient without denoising.
    """
    theirs = {n: v for n, v in from_json(expected["grad_norms"]).items() if "in_proj" not in n and "label_enc" not in n}
    split = ("self_attention.query_key.", "self_attention.value.")
    ours = [g.norm().item() for name, g in run.gradients.items() if not any(part in name for part in split)]
    assert "denoising.labels.weight" not in run.gradients
    np.testing.assert_allclose(sorted(ours), sorted(theirs.values()), rtol=TOLERANCE)
