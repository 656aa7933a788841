"""An image's result does not depend on the images it is batched with, nor on what padding holds."""

from dataclasses import replace

import pytest
import torch
from model_helpers import DEFORMABLE_DETR, FULL, H_DETR, PLAIN, random_images, random_targets, small_detector

from litedetr.losses import Criterion, LossConfig
from litedetr.structures import ImageBatch, TargetBatch

SIZES = [(96, 150), (131, 85), (33, 40)]  # no side divides by a stride; the last has fewer tokens than queries
ENCODERS = {
    "sequential": {},
    "joint": {"encoder": {"update": "joint"}},
    "full": {"encoder": FULL},
    "own keys": {"attention": {"encoder": "key_aware"}},
    "deformable": {"attention": PLAIN},
    "no low-level update": {"encoder": {"low_level_update": False}},
    "Deformable DETR": DEFORMABLE_DETR,
    "H-DETR": H_DETR,
    "bottlenecks": {"backbone": {"name": "resnet50"}},
    "EfficientNet-Lite": {"backbone": {"name": "efficientnet_lite0", "width": 64}},
    "frozen EfficientNet-Lite": {"backbone": {"name": "efficientnet_lite0", "norm": "frozen", "width": 64}},
}


@pytest.mark.parametrize("changes", ENCODERS.values(), ids=list(ENCODERS))
def test_a_batch_of_several_sizes_gives_what_each_image_gives_alone(changes):
    model = small_detector(**{**changes, "query_selection": {**changes.get("query_selection", {}), "num_queries": 40}})
    images = random_images(*SIZES)
    with torch.no_grad():
        together = model(ImageBatch.from_images(images)).predictions
        for i, image in enumerate(images):
            alone = model(ImageBatch.from_images([image])).predictions
            num_queries = alone.boxes.shape[1]
            torch.testing.assert_close(together.boxes[i, :num_queries], alone.boxes[0], atol=1e-9, rtol=0)
            torch.testing.assert_close(together.class_logits[i, :num_queries], alone.class_logits[0], atol=1e-9, rtol=0)
            assert (together.class_logits[i, num_queries:] < -1000).all()  # queries that fell on padding say nothing


@pytest.mark.parametrize(
    "system",
    [DEFORMABLE_DETR, {**H_DETR, "hybrid": {"num_queries": 60, "num_repeats": 10}}],
    ids=["Deformable DETR", "H-DETR"],
)
def test_a_batch_learns_what_its_images_learn_alone(system):
    """Loss and gradient; of the last image's 39 tokens 29 are one-to-many queries, fewer than its repeated objects."""
    assert_learns_alike(small_detector(**system), random_targets(2, 1, 4))


@pytest.mark.parametrize(
    "system",
    [{"denoising": {"num_pairs": 6, "box_noise": 0.0, "label_flip": 0.0}}, DEFORMABLE_DETR, H_DETR],
    ids=["DINO", "Deformable DETR", "H-DETR"],
)
def test_objects_beyond_an_images_tokens_are_not_matched_to_padding(system):
    """The last image has 50 objects and 39 tokens; in the batch, whose other images are larger, it has 60 queries."""
    model = small_detector(**{**system, "query_selection": {**system.get("query_selection", {}), "num_queries": 60}})
    assert_learns_alike(model, random_targets(2, 0, 50))


def assert_learns_alike(model, targets):
    """A batch of SIZES has the loss and the gradient that its images have alone, added up."""
    images, criterion = random_images(*SIZES), Criterion(LossConfig())
    total = criterion(model(ImageBatch.from_images(images), targets), targets).total
    total.backward()
    together = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    for image, target in zip(images, targets.items, strict=True):
        own = TargetBatch.from_targets([target])
        share = replace(own, num_boxes=targets.num_boxes, max_objects=targets.max_objects)
        loss = criterion(model(ImageBatch.from_images([image]), share), share).total
        loss.backward()
        total = total - loss.detach()
    assert abs(total.item()) < 1e-8
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, together[name], atol=1e-8, rtol=1e-6, msg=name)


def test_the_small_image_has_fewer_tokens_than_queries():
    """Otherwise the test above would not show what happens then."""
    model = small_detector(query_selection={"num_queries": 40})
    with torch.no_grad():
        assert model(ImageBatch.from_images(random_images(SIZES[-1]))).predictions.boxes.shape[1] < 40


@pytest.mark.parametrize("content", [7.0, float("nan")])
def test_what_padding_holds_changes_nothing(content):
    model = small_detector()
    clean = ImageBatch.from_images(random_images((64, 96), (96, 70)))
    pixels = clean.pixels.clone()
    pixels[0, :, 64:] = content
    pixels[1, :, :, 70:] = content
    with torch.no_grad():
        expected, actual = model(clean).predictions, model(replace(clean, pixels=pixels)).predictions
    assert torch.equal(actual.boxes, expected.boxes)
    assert torch.equal(actual.class_logits, expected.class_logits)


def test_an_unpadded_batch_skips_the_masks_and_agrees_with_them():
    model = small_detector()
    images = ImageBatch.from_images(random_images((64, 96), (64, 96)))
    with torch.no_grad():
        plain, masked = model(images).predictions, model(replace(images, padded=True)).predictions
    torch.testing.assert_close(masked.boxes, plain.boxes, atol=1e-12, rtol=0)
