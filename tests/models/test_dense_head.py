"""The dense head: what it predicts of which token, and that it is there only in training."""

from itertools import product

import pytest
import torch
from model_helpers import DEFORMABLE_DETR, FULL, H_DETR, random_images, random_targets, small_config, small_detector

from litedetr.boxes import inverse_sigmoid
from litedetr.losses import Branch, Criterion, LossConfig
from litedetr.models.proposals import NEVER
from litedetr.settings import ConfigError
from litedetr.structures import ImageBatch

DENSE = {"dense": {"num_positives": 5}}
JOINT = {"encoder": {"update": "joint", "num_high_levels": 3, "num_high_layers": 2, "num_blocks": 1}}
SYSTEMS = {
    "DINO": {},
    "beside one-to-many": {"hybrid": {"num_queries": 15, "num_repeats": 3}},
    "joint": JOINT,
    "full": {"encoder": FULL},
    "high levels only": {"encoder": {"low_level_update": False}},
    "Deformable DETR": DEFORMABLE_DETR,
    "H-DETR": H_DETR,
}


@pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS)
def test_every_system_can_have_it_and_predicts_the_same(batch, system):
    """With the same weights, and in training too, bit for bit."""
    plain, model = small_detector(**system), small_detector(**system, **DENSE)
    own = {name: value for name, value in model.state_dict().items() if not name.startswith("dense.")}
    assert own.keys() == plain.state_dict().keys()
    assert len(model.state_dict()) == len(own) + 8
    model.load_state_dict(plain.state_dict(), strict=False)
    for targets in (None, random_targets(2, 1)):
        with torch.no_grad():
            torch.manual_seed(0)  # denoising draws
            expected = plain(batch, targets)
            torch.manual_seed(0)
            found = model(batch, targets)
        assert (found.dense is None) == (targets is None)
        for p, q in zip((*expected.layers, expected.proposals), (*found.layers, found.proposals), strict=True):
            assert torch.equal(p.boxes, q.boxes)
            assert torch.equal(p.class_logits, q.class_logits)


@pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS)
@pytest.mark.parametrize("counts", [(2, 1), (0, 0), (60, 3)])
def test_every_parameter_learns(batch, system, counts):
    model = small_detector(**system, **DENSE).train()
    targets = random_targets(*counts)
    losses = Criterion(LossConfig())(model(batch, targets), targets)
    assert losses.total.isfinite()
    assert {part.term for part in losses.parts if part.branch is Branch.DENSE} == {"classes", "l1", "giou"}
    losses.total.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert model.dense.head.classes.weight.grad.abs().sum() > 0
    assert (model.dense.head.box.layers[0].weight.grad.abs().sum() > 0) == (sum(counts) > 0)


def test_its_loss_reaches_the_encoder_and_the_backbone(batch):
    model, targets = small_detector(**DENSE), random_targets(2, 1)
    losses = model(batch, targets).dense.predictions
    (losses.class_logits.sum() + losses.boxes.sum()).backward()
    for part in (model.encoder, model.neck, model.backbone, model.dense):
        assert sum(p.grad.abs().sum() for p in part.parameters() if p.grad is not None) > 0
    assert all(p.grad is None for p in model.decoder.parameters())


def test_what_it_predicts_spelled_out():
    """Of 96 x 128 pixels, level 0 has cells of 8 pixels, and anchors of 0.05, 0.1, 0.2, 0.4 of the image."""
    model = small_detector(**DENSE)
    images = ImageBatch.from_images(random_images((96, 128)))
    memory = model.encoder(model.neck(model.backbone(images), images))
    output = model.dense(memory)
    assert memory.shapes == ((12, 16), (6, 8), (3, 4), (2, 2))
    assert output.num_positives == 5
    cells = [(level, *cell) for level, shape in enumerate(memory.shapes) for cell in product(*map(range, shape))]
    head = model.dense.head
    for token in (0, 17, 191, 192 + 8 + 3, 192 + 48 + 5, 192 + 48 + 12 + 3):
        level, y, x = cells[token]
        height, width = memory.shapes[level]
        centre = ((x + 0.5) / width, (y + 0.5) / height)
        anchor = torch.tensor([*centre, 0.05 * 2**level, 0.05 * 2**level], dtype=torch.float64)
        content = memory.tokens[0, token]
        torch.testing.assert_close(output.centres[0, token], anchor[:2])
        torch.testing.assert_close(output.predictions.class_logits[0, token], head.classes(content))
        expected = (head.box(content) + inverse_sigmoid(anchor)).sigmoid()
        torch.testing.assert_close(output.predictions.boxes[0, token], expected)


def test_padding_is_silent_and_predictions_do_not_depend_on_the_batch():
    model = small_detector(**DENSE)
    images = random_images((96, 150), (131, 85))
    joint = ImageBatch.from_images(images)
    memory = model.encoder(model.neck(model.backbone(joint), joint))
    together = model.dense(memory).predictions
    assert (together.class_logits[memory.padding_mask] == NEVER).all()
    assert torch.equal(together.valid, ~memory.padding_mask)
    for i, image in enumerate(images):
        alone_batch = ImageBatch.from_images([image])
        alone = model(alone_batch, random_targets(1)).dense
        for name in ("class_logits", "boxes"):
            of_image = getattr(together, name)[i][together.valid[i]]
            torch.testing.assert_close(of_image, getattr(alone.predictions, name)[0], atol=1e-9, rtol=0)


@pytest.mark.parametrize("number", [-1, 2**17])
def test_numbers_out_of_bounds_are_refused(number):
    with pytest.raises(ConfigError, match=r"dense\.num_positives: expected at (least|most) .*, got "):
        small_config(dense={"num_positives": number})


def test_training_parts_can_be_dropped(batch):
    model = small_detector(**DENSE)
    with torch.no_grad():
        before = model(batch).predictions
        model.drop_training_parts()
        after = model(batch).predictions
    assert not [name for name in model.state_dict() if name.startswith(("dense.", "denoising."))]
    assert torch.equal(before.boxes, after.boxes)
