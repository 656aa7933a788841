"""Deformable DETR's query selection and decoder."""

import pytest
import torch
from model_helpers import DEFORMABLE_DETR, H_DETR, random_images, random_targets, small_config, small_detector

from litedetr.boxes import inverse_sigmoid
from litedetr.models.position import box_embedding
from litedetr.settings import ConfigError
from litedetr.structures import ImageBatch


def memory_of(model, batch):
    return model.encoder(model.neck(model.backbone(batch), batch))


def selected(model, batch):
    """Memory, queries and the logits' order by hand: the first class logit, best first."""
    memory = memory_of(model, batch)
    queries, proposals = model.query_selection(memory)
    order = proposals.class_logits[..., 0].argsort(dim=1, descending=True)[:, : queries.content.shape[1]]
    return memory, queries, proposals, order


def test_proposals_are_all_tokens_and_queries_those_of_the_highest_first_logit(batch):
    model = small_detector(**DEFORMABLE_DETR)
    memory, queries, proposals, order = selected(model, batch)
    assert proposals.foreground
    assert proposals.boxes.shape[1] == memory.tokens.shape[1]
    best = proposals.boxes.gather(1, order.unsqueeze(-1).expand(-1, -1, 4))
    torch.testing.assert_close(queries.reference_logit.sigmoid(), best)
    by_any_class = proposals.class_logits.amax(-1).argsort(dim=1, descending=True)[:, : order.shape[1]]
    assert not torch.equal(by_any_class.sort().values, order.sort().values)


def test_content_and_position_are_the_projected_sine_embedding_of_the_proposals(batch):
    model = small_detector(**DEFORMABLE_DETR)
    _, queries, proposals, order = selected(model, batch)
    boxes = proposals.boxes.gather(1, order.unsqueeze(-1).expand(-1, -1, 4)).detach()
    selection = model.query_selection
    embedded = selection.embedding_norm(selection.embedding(box_embedding(boxes, 16)))
    torch.testing.assert_close(queries.position, embedded[..., :16])
    torch.testing.assert_close(queries.content, embedded[..., 16:])
    assert not queries.reference_logit.requires_grad


def test_h_detr_learns_its_contents_and_takes_its_positions_from_the_proposals(batch):
    model = small_detector(**H_DETR)
    _, queries, proposals, order = selected(model, batch)
    assert torch.equal(queries.content[1], model.query_selection.content.weight[:10])
    boxes = proposals.boxes.gather(1, order.unsqueeze(-1).expand(-1, -1, 4)).detach()
    selection = model.query_selection
    embedded = selection.embedding_norm(selection.embedding(box_embedding(boxes, 16)))
    torch.testing.assert_close(queries.position, embedded[..., :16])


@pytest.mark.parametrize("twice", [False, True])
def test_the_decoder_by_hand(batch, twice):
    """Constant position, heads of each layer on its output itself, references detached (look forward twice: not for
    the prediction)."""
    options = {**DEFORMABLE_DETR["decoder"], "look_forward_twice": twice}
    model = small_detector(**{**DEFORMABLE_DETR, "decoder": options})
    memory, queries, _, _ = selected(model, batch)
    output = model.decoder(queries, memory)
    ratios = memory.valid_ratios.repeat(1, 1, 2).unsqueeze(1)
    content, reference = queries.content, queries.reference_logit.sigmoid()
    for layer, head, predictions in zip(model.decoder.layers, model.decoder.heads, output.layers, strict=True):
        content = layer(content, queries.position, reference.unsqueeze(2) * ratios, memory, None)
        torch.testing.assert_close(predictions.class_logits, head.classes(content))
        reference = (head.box(content) + inverse_sigmoid(reference)).sigmoid()
        torch.testing.assert_close(predictions.boxes, reference)
        reference = reference.detach()


@pytest.mark.parametrize(("twice", "reaches"), [(False, False), (True, True)])
def test_looking_forward_twice_is_a_gradient_to_the_layer_before(batch, twice, reaches):
    """The box head of layer 0 has a gradient from layer 1's boxes only where the reference is not detached."""
    options = {**DEFORMABLE_DETR["decoder"], "look_forward_twice": twice}
    model = small_detector(**{**DEFORMABLE_DETR, "decoder": options})
    model(batch).layers[1].boxes.sum().backward()
    assert (model.decoder.heads[0].box.layers[-1].weight.grad is not None) == reaches
    assert model.decoder.heads[1].box.layers[-1].weight.grad.abs().sum() > 0


def test_heads_are_separate_for_each_layer_and_the_proposals(batch):
    """num_layers + 1 copies: changing one changes its own predictions alone."""
    model = small_detector(**DEFORMABLE_DETR)
    assert len(model.decoder.heads) == len(model.decoder.layers) == 2
    with torch.no_grad():
        before = model(batch)
        model.decoder.heads[0].classes.weight.add_(1.0)
        after = model(batch)
    assert not torch.allclose(after.layers[0].class_logits, before.layers[0].class_logits)
    assert torch.equal(after.layers[1].class_logits, before.layers[1].class_logits)
    assert torch.equal(after.proposals.class_logits, before.proposals.class_logits)


def test_no_denoising_and_no_idle_parameter(batch):
    model = small_detector(**DEFORMABLE_DETR).train()
    output = model(batch, random_targets(2, 1))
    assert (output.denoising, output.one_to_many) == (None, None)
    heads = [*output.layers, output.proposals]
    sum(p.class_logits.sum() + p.boxes.sum() for p in heads).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_dropout_acts_in_training_alone(batch, part):
    model = small_detector(**{**DEFORMABLE_DETR, part: {**DEFORMABLE_DETR[part], "dropout": 0.5}})
    with torch.no_grad():
        assert torch.equal(model(batch).predictions.boxes, model(batch).predictions.boxes)
        model.train()
        assert not torch.equal(model(batch).predictions.boxes, model(batch).predictions.boxes)


def test_padded_tokens_say_nothing_with_exact_padding():
    images = ImageBatch.from_images(random_images((96, 128), (64, 70)))
    for padding, silent in (("exact", True), ("published", False)):
        model = small_detector(**DEFORMABLE_DETR, padding=padding)
        memory = memory_of(model, images)
        _, proposals = model.query_selection(memory)
        assert (proposals.class_logits[memory.padding_mask] < -1000).all().item() is silent


def test_denoising_is_refused():
    with pytest.raises(ConfigError, match="denoising.num_pairs: expected 0 with decoder.query_position=proposals"):
        small_config(**{**DEFORMABLE_DETR, "denoising": {"num_pairs": 10}})
