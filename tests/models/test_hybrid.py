"""H-DETR's one-to-many queries: beside the detector's own and denoising ones, and leaking into nothing."""

from dataclasses import replace

import pytest
import torch
from model_helpers import DEFORMABLE_DETR, H_DETR, random_images, random_targets, small_detector

from litedetr.models.hybrid import Hybrid
from litedetr.models.training_queries import JointQueries
from litedetr.structures import ImageBatch

BESIDE_DENOISING = {"hybrid": {"num_queries": 15, "num_repeats": 3}}  # 3 groups of denoising, of 2 objects an image


def joint_queries(model, batch):
    """Memory, the detector's own queries, the one-to-many ones."""
    memory = model.encoder(model.neck(model.backbone(batch), batch))
    selected, _ = model.query_selection(memory, 15)
    return memory, *model.hybrid(selected, random_targets(*[1] * len(selected.content)))


def test_the_best_proposals_are_the_detectors_own_as_without_the_branch(batch):
    model = small_detector(**H_DETR)
    memory, own, others = joint_queries(model, batch)
    alone, _ = model.query_selection(memory)
    for name in ("content", "reference_logit", "position"):
        assert torch.equal(getattr(own, name), getattr(alone, name)), name
    assert (own.content.shape[1], len(others)) == (10, 15)


def test_one_to_many_queries_change_no_prediction_of_the_detector(batch):
    model = small_detector(**H_DETR)
    with torch.no_grad():
        alone, beside = model(batch), model(batch, random_targets(2, 1))
    assert alone.one_to_many is None
    assert [p.boxes.shape[1] for p in beside.one_to_many.layers] == [15, 15]
    for expected, actual in zip(alone.layers, beside.layers, strict=True):
        torch.testing.assert_close(actual.boxes, expected.boxes, atol=1e-12, rtol=0)
        torch.testing.assert_close(actual.class_logits, expected.class_logits, atol=1e-12, rtol=0)


def test_neither_group_sees_the_other(batch):
    """No gradient from one group's predictions to the other's contents, but to its own."""
    model = small_detector(**H_DETR)
    memory, own, others = joint_queries(model, batch)
    memory = memory.with_tokens(memory.tokens.detach())
    contents = [q.content.detach().requires_grad_() for q in (own, others.queries)]
    queries = replace(own, content=contents[0])
    training = replace(others, queries=replace(others.queries, content=contents[1]))
    output = model.decoder(queries, memory, (training,))
    groups = (output.layers, output.one_to_many.layers)
    for mine, layers in enumerate(groups):
        loss = sum(p.class_logits.square().sum() + p.boxes.sum() for p in layers)
        grads = torch.autograd.grad(loss, contents, retain_graph=True, allow_unused=True)
        assert grads[mine].abs().sum() > 0
        assert grads[1 - mine] is None or grads[1 - mine].abs().max() == 0


def test_the_mask_parts_the_groups():
    model = small_detector(**H_DETR)
    _, own, others = joint_queries(model, ImageBatch.from_images(random_images((96, 128))))
    (mask,) = JointQueries(own, (others,)).attention_mask()
    assert mask.shape == (25, 25)
    assert mask[:15, :15].all()
    assert mask[15:, 15:].all()
    assert not mask[:15, 15:].any()
    assert not mask[15:, :15].any()


def test_fewer_tokens_than_queries_leave_fewer_or_none_for_the_branch():
    many = {**H_DETR, "hybrid": {"num_queries": 200, "num_repeats": 3}}
    images = ImageBatch.from_images(random_images((33, 40)))
    model = small_detector(**many)
    output = model(images, random_targets(2))
    num_tokens = output.proposals.boxes.shape[1]
    assert output.predictions.boxes.shape[1] == 10
    assert output.one_to_many.layers[0].boxes.shape[1] == num_tokens - 10 < 200
    none_left = small_detector(**{**many, "query_selection": {"kind": "two_stage_mixed", "num_queries": 100}})
    output = none_left(images, random_targets(2))
    assert output.predictions.boxes.shape[1] == num_tokens
    assert output.one_to_many.layers[0].boxes.shape[1] == 0


def test_one_to_many_predictions_do_not_depend_on_the_batch():
    model = small_detector(**H_DETR)
    images = random_images((96, 150), (131, 85))
    with torch.no_grad():
        together = model(ImageBatch.from_images(images), random_targets(2, 1)).one_to_many.layers[-1]
        for i, image in enumerate(images):
            alone = model(ImageBatch.from_images([image]), random_targets(1)).one_to_many.layers[-1]
            torch.testing.assert_close(together.boxes[i], alone.boxes[0], atol=1e-9, rtol=0)
            torch.testing.assert_close(together.class_logits[i], alone.class_logits[0], atol=1e-9, rtol=0)


def test_the_branch_has_no_parameters_but_slots():
    plain = small_detector(**{**H_DETR, "hybrid": {"num_queries": 0}})
    model = small_detector(**H_DETR)
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert isinstance(model.hybrid, Hybrid)
    assert plain.hybrid is None
    assert model.query_selection.content.num_embeddings == plain.query_selection.content.num_embeddings + 15


@pytest.mark.parametrize("num_pairs", [0, 6])
def test_dino_can_have_the_branch_without_or_beside_denoising(batch, num_pairs):
    model = small_detector(denoising={"num_pairs": num_pairs}, hybrid={"num_queries": 15}).train()
    output = model(batch, random_targets(2, 1))
    assert [output.proposals.boxes.shape[1], output.one_to_many.layers[0].boxes.shape[1]] == [10, 15]
    assert (output.denoising is not None) == (num_pairs > 0)


def test_the_mask_beside_denoising_spelled_out():
    """Of an image with two objects, and of one that has one and so a padding slot in each half of a group."""
    model = small_detector(**BESIDE_DENOISING)
    images, targets = ImageBatch.from_images(random_images((96, 128), (96, 128))), random_targets(2, 1)
    selected, _ = model.query_selection(model.encoder(model.neck(model.backbone(images), images)), 15)
    own, others = model.hybrid(selected, targets)
    _, noised = model.denoising(own, targets)
    mask = JointQueries(own, (others, noised)).attention_mask()
    kinds = ["many"] * 15 + ["group 0"] * 4 + ["group 1"] * 4 + ["group 2"] * 4 + ["own"] * 10
    assert mask.shape == (2, len(kinds), len(kinds))
    for image, padding_slots in enumerate([(), (16, 18, 20, 22, 24, 26)]):
        for i, mine in enumerate(kinds):
            for j, theirs in enumerate(kinds):
                sees = mine == theirs or (mine.startswith("group") and theirs == "own")
                assert mask[image, i, j] == (i == j or (sees and j not in padding_slots)), (image, i, j)


@pytest.mark.parametrize("sizes", [((96, 128), (96, 128)), ((96, 150), (131, 85))], ids=["equal", "padded"])
def test_no_branch_moves_what_another_predicts(sizes):
    """Whatever one of the branches holds, the detector and the other branch predict the same, bit for bit."""
    model = small_detector(**BESIDE_DENOISING)
    images, targets = ImageBatch.from_images(random_images(*sizes)), random_targets(2, 1)
    memory = model.encoder(model.neck(model.backbone(images), images))
    selected, _ = model.query_selection(memory, 15)
    own, others = model.hybrid(selected, targets)
    _, noised = model.denoising(own, targets)
    groups = (others, noised)

    def predicted(groups):
        output = model.decoder(own, memory, groups)
        return {"own": output.layers, "many": output.one_to_many.layers, "noised": output.denoising.layers}

    with torch.no_grad():
        before = predicted(groups)
        for place, name in enumerate(("many", "noised")):
            queries = replace(groups[place].queries, content=groups[place].queries.content + 1)
            changed = replace(groups[place], queries=queries)
            after = predicted(tuple(changed if group is groups[place] else group for group in groups))
            for branch in before:
                same = all(
                    torch.equal(a.boxes, b.boxes) and torch.equal(a.class_logits, b.class_logits)
                    for a, b in zip(before[branch], after[branch], strict=True)
                )
                assert same == (branch != name), (name, branch)


def test_beside_denoising_the_detector_predicts_as_without(batch):
    model = small_detector(**BESIDE_DENOISING)
    with torch.no_grad():
        alone, beside = model(batch), model(batch, random_targets(2, 1))
    assert (alone.one_to_many, alone.denoising) == (None, None)
    for expected, actual in zip((*alone.layers, alone.proposals), (*beside.layers, beside.proposals), strict=True):
        torch.testing.assert_close(actual.boxes, expected.boxes, atol=1e-12, rtol=0)
        torch.testing.assert_close(actual.class_logits, expected.class_logits, atol=1e-12, rtol=0)


def test_every_parameter_learns_without_objects(batch):
    for system in (H_DETR, {**DEFORMABLE_DETR, "hybrid": {"num_queries": 15}}, BESIDE_DENOISING):
        model = small_detector(**system).train()
        output = model(batch, random_targets(0, 0))
        noised = () if output.denoising is None else output.denoising.layers
        heads = [*output.layers, output.proposals, *output.one_to_many.layers, *noised]
        sum(p.class_logits.sum() + p.boxes.sum() for p in heads).backward()
        assert [name for name, p in model.named_parameters() if p.grad is None] == []
