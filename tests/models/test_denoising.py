"""Denoising groups: what they hold, and that they leak into nothing."""

from dataclasses import replace

import pytest
import torch
from model_helpers import random_targets, small_detector

from litedetr.boxes import cxcywh_to_xyxy, inverse_sigmoid
from litedetr.models.denoising import Denoising, DenoisingQueries, Noise
from litedetr.models.detector_config import DenoisingConfig
from litedetr.models.training_queries import JointQueries
from litedetr.structures import Queries, Share, TargetBatch


def make_queries(targets, **settings) -> DenoisingQueries:
    torch.manual_seed(0)
    own = Queries(torch.zeros(len(targets), 1, 8), torch.zeros(len(targets), 1, 4))
    same, noised = Denoising(DenoisingConfig(**settings), channels=8, num_classes=3).double()(own, targets)
    assert same is own
    return noised


def test_detection_does_not_see_the_denoising_queries(batch):
    model = small_detector()
    with torch.no_grad():
        alone, beside = model(batch), model(batch, random_targets(3, 1))
    for expected, actual in zip(alone.layers, beside.layers, strict=True):
        torch.testing.assert_close(actual.boxes, expected.boxes, atol=1e-12, rtol=0)
        torch.testing.assert_close(actual.class_logits, expected.class_logits, atol=1e-12, rtol=0)


def test_groups_do_not_see_each_other_and_nobody_sees_padding(batch):
    """Change the content of group 0 and of all padding slots: nothing else moves, group 0 does."""
    model = small_detector()
    targets = random_targets(2, 1)
    memory = model.encoder(model.neck(model.backbone(batch), batch))
    queries, _ = model.query_selection(memory)
    _, noised = model.denoising(queries, targets)
    per_group = len(noised) // noised.num_groups
    assert noised.num_groups == 3

    changed = (torch.arange(len(noised)) < per_group).repeat(2, 1) | ~noised.queries.valid
    content = torch.where(changed.unsqueeze(-1), noised.queries.content + 1, noised.queries.content)
    other = replace(noised, queries=replace(noised.queries, content=content))
    with torch.no_grad():
        before, after = (model.decoder(queries, memory, (d,)) for d in (noised, other))
    for first, second in zip(before.denoising.layers, after.denoising.layers, strict=True):
        same = (first.class_logits - second.class_logits).abs().amax(-1) < 1e-12
        assert same[~changed].all()
        assert not same[:, :per_group].all()
    torch.testing.assert_close(after.predictions.boxes, before.predictions.boxes, atol=1e-12, rtol=0)


def test_an_image_denoises_alike_in_any_batch(batch):
    """The slots that a batch with more objects adds are invisible."""
    model = small_detector(denoising={"num_pairs": 1, "box_noise": 0.0, "label_flip": 0.0})  # one group, no noise
    few, many = random_targets(2, 2), random_targets(2, 5)
    with torch.no_grad():
        short, long = (model(batch, targets).denoising.layers[-1].boxes[0] for targets in (few, many))
    positives = slice(0, 2)
    negatives_short, negatives_long = slice(2, 4), slice(5, 7)
    torch.testing.assert_close(long[positives], short[positives], atol=1e-12, rtol=0)
    torch.testing.assert_close(long[negatives_long], short[negatives_short], atol=1e-12, rtol=0)


@pytest.mark.parametrize(("num_pairs", "counts", "groups"), [(100, (7, 3), 14), (100, (0, 0), 100), (5, (9, 2), 1)])
def test_number_of_groups(num_pairs, counts, groups):
    noised = make_queries(random_targets(*counts), num_pairs=num_pairs)
    assert noised.num_groups == groups
    assert len(noised) == groups * 2 * max(*counts, 1)
    assert noised.queries.valid.sum(1).tolist() == [groups * 2 * n for n in counts]


def test_noise_moves_positives_less_than_negatives():
    """Corners move by [0, 1) half sizes in positives and by [1, 2) in negatives."""
    torch.manual_seed(0)
    box = torch.tensor([0.5, 0.4, 0.1, 0.2], dtype=torch.float64)
    negative = torch.arange(20000) % 2 == 1
    boxes = box.expand(1, len(negative), 4)
    noise = Noise.draw(boxes, num_classes=3, share=None)
    moved = Denoising(DenoisingConfig(), channels=8, num_classes=3)._jitter(boxes, negative, noise)
    distance = (cxcywh_to_xyxy(moved[0]) - cxcywh_to_xyxy(box)).abs() / (box[2:].repeat(2) / 2)
    for expected, part in ((0, distance[~negative]), (1, distance[negative])):
        assert part.min() >= expected - 1e-9
        assert part.max() < expected + 1
        assert abs(part.mean() - expected - 0.5) < 0.01


def test_no_noise_is_the_ground_truth():
    targets = random_targets(3)
    noised = make_queries(targets, num_pairs=3, box_noise=0.0, label_flip=0.0)
    expected = inverse_sigmoid(targets.items[0].boxes).repeat(2, 1)
    torch.testing.assert_close(noised.queries.reference_logit[0], expected)


def test_label_flip_has_its_rate():
    """A flipped label is drawn over all classes, so that a third of the flips change nothing."""
    torch.manual_seed(0)
    denoising = Denoising(DenoisingConfig(label_flip=0.6), channels=8, num_classes=3)
    noise = Noise.draw(torch.zeros(1, 20000, 4), num_classes=3, share=None)
    flipped = denoising._flip(torch.zeros(1, 20000, dtype=torch.long), noise)
    assert abs((flipped != 0).float().mean().item() - 0.4) < 0.02


def test_an_image_gets_the_same_noise_in_any_share_of_the_batch():
    targets = random_targets(2, 0, 3, 1, 2)
    whole, other = (make_queries(replace(targets, share=Share(0, 5, seed)), num_pairs=7).queries for seed in (0, 1))
    for first, end in ((0, 1), (1, 4), (2, 5)):
        own = TargetBatch.from_targets(targets.items[first:end])
        part = replace(own, max_objects=targets.max_objects, share=Share(first, 5, seed=0))
        queries = make_queries(part, num_pairs=7).queries
        assert torch.equal(queries.content, whole.content[first:end])
        assert torch.equal(queries.reference_logit, whole.reference_logit[first:end])
    assert not torch.equal(other.reference_logit, whole.reference_logit)


def test_a_batch_that_is_no_share_draws_from_the_global_generator():
    boxes = torch.rand(3, 10, 4)
    shared = Noise.draw(boxes, num_classes=3, share=Share(0, 3, seed=5))
    torch.manual_seed(5)
    own = Noise.draw(boxes, num_classes=3, share=None)
    assert all(torch.equal(getattr(own, name), value) for name, value in vars(shared).items())


def test_the_mask_lets_every_query_see_something():
    own = Queries(torch.zeros(2, 4, 8), torch.zeros(2, 4, 4))
    mask = JointQueries(own, (make_queries(random_targets(2, 0), num_pairs=6),)).attention_mask()
    assert mask.any(-1).all()
    assert mask[:, -4:, :-4].any().item() is False


def test_a_batch_without_objects_still_gives_every_parameter_a_gradient(batch):
    """Otherwise several processes would wait for a gradient that never comes."""
    model = small_detector().train()
    output = model(batch, random_targets(0, 0))
    heads = [*output.layers, output.proposals, *output.denoising.layers]
    sum(p.class_logits.sum() + p.boxes.sum() for p in heads).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
