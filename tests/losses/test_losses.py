"""Matching and losses against definitions spelled out."""

import math
from dataclasses import replace
from itertools import permutations

import pytest
import torch
from torch.nn.functional import one_hot

from litedetr.boxes import cxcywh_to_xyxy, generalized_iou
from litedetr.losses import Branch, Criterion, LossConfig, Losses
from litedetr.losses.focal import focal_cost, focal_loss
from litedetr.losses.matcher import match
from litedetr.losses.parts import LossName
from litedetr.losses.supervision import Supervision
from litedetr.structures import DenoisingOutput, DetectorOutput, OneToManyOutput, Predictions, Target, TargetBatch

CONFIG = LossConfig()
TERMS = ("classes", "l1", "giou")
DECODER = [LossName(Branch.DECODER, 0, term) for term in TERMS]


def predictions(batch=2, queries=5, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Predictions(
        torch.randn(batch, queries, classes, generator=generator, dtype=torch.float64),
        torch.rand(batch, queries, 4, generator=generator, dtype=torch.float64) * 0.4 + 0.2,
    )


def targets(*counts, seed=1):
    generator = torch.Generator().manual_seed(seed)
    items = [
        Target(
            torch.randint(3, (n,), generator=generator),
            torch.rand(n, 4, generator=generator, dtype=torch.float64) * 0.4 + 0.2,
            i,
            (10, 10),
        )
        for i, n in enumerate(counts)
    ]
    return TargetBatch.from_targets(items)


def pairs_of(p, wanted, repeats=1):
    """The assignment of one layer."""
    ((assignment,),) = match([Supervision(Branch.DECODER, (p,), wanted, repeats)], CONFIG).assignments
    return assignment


def values_of(losses: Losses) -> dict[LossName, torch.Tensor]:
    assert len({part.name for part in losses.parts}) == len(losses.parts)
    return {part.name: part.value for part in losses.parts}


def names_of(*branches: tuple[Branch, int]) -> set[LossName]:
    """All terms of branches of so many layers."""
    return {LossName(branch, i, term) for branch, layers in branches for i in range(layers) for term in TERMS}


def pair_cost(p, image, query, label, box):
    classes = focal_cost(p.class_logits[image, query, label], 0.25, 2.0)
    own = p.boxes[image, query]
    giou = generalized_iou(cxcywh_to_xyxy(own), cxcywh_to_xyxy(box))
    return (2 * classes + 5 * (own - box).abs().sum() - 2 * giou).item()


def test_matching_is_the_cheapest_of_all_assignments():
    p, wanted = predictions(), targets(3, 2)
    assignment = pairs_of(p, wanted)
    for i, target in enumerate(wanted.items):
        chosen = assignment.image == i
        pairs = zip(assignment.query[chosen], assignment.labels[chosen], assignment.boxes[chosen], strict=True)
        cost = sum(pair_cost(p, i, query, label, box) for query, label, box in pairs)
        every = [
            sum(pair_cost(p, i, q, target.labels[n], target.boxes[n]) for n, q in enumerate(order))
            for order in permutations(range(5), len(target))
        ]
        assert cost == pytest.approx(min(every))


def test_more_objects_than_queries_match_as_many_as_there_are():
    assignment = pairs_of(predictions(batch=1, queries=2), targets(4))
    assert sorted(assignment.query.tolist()) == [0, 1]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_queries_that_are_not_finite_are_matched_last(number):
    """And to all objects if there are no others; the loss is not finite then."""
    p, wanted = predictions(), targets(3, 2)
    finite = replace(p, boxes=p.boxes[:, :3], class_logits=p.class_logits[:, :3])
    broken = p.boxes.clone()
    broken[:, 3:] = number
    p = replace(p, boxes=broken)
    found, expected = pairs_of(p, wanted), pairs_of(finite, wanted)
    assert torch.equal(found.query, expected.query)
    assert torch.equal(found.boxes, expected.boxes)

    p = replace(p, boxes=torch.full_like(p.boxes, number))
    assert torch.bincount(pairs_of(p, wanted).image).tolist() == [3, 2]
    losses = Criterion(CONFIG)(DetectorOutput((p,)), wanted)
    assert not losses.total.isfinite()
    assert not losses.has_finite_costs
    assert Criterion(CONFIG)(DetectorOutput((finite,)), wanted).has_finite_costs


def test_focal_loss_formula():
    logits = torch.tensor([0.3, -1.2], dtype=torch.float64)
    p = logits.sigmoid()
    positive = -0.25 * (1 - p) ** 2 * p.log()
    negative = -0.75 * p**2 * (1 - p).log()
    torch.testing.assert_close(focal_loss(logits, torch.ones_like(p), 0.25, 2.0), positive)
    torch.testing.assert_close(focal_loss(logits, torch.zeros_like(p), 0.25, 2.0), negative)


def test_loss_of_one_layer_spelled_out():
    p, wanted = predictions(), targets(2, 1)
    losses = Criterion(CONFIG)(DetectorOutput((p,)), wanted)
    pairs = pairs_of(p, wanted)
    onehot = torch.zeros_like(p.class_logits)
    onehot[pairs.image, pairs.query] = one_hot(pairs.labels, 3).double()
    matched = p.boxes[pairs.image, pairs.query]
    overlap = generalized_iou(cxcywh_to_xyxy(matched), cxcywh_to_xyxy(pairs.boxes))
    expected = {
        "classes": focal_loss(p.class_logits, onehot, 0.25, 2.0).sum() / 3,
        "l1": (matched - pairs.boxes).abs().sum() / 3,
        "giou": (1 - overlap).sum() / 3,
    }
    assert [part.name for part in losses.parts] == DECODER
    for part in losses.parts:
        torch.testing.assert_close(part.value, expected[part.term])
    total = expected["classes"] + 5 * expected["l1"] + 2 * expected["giou"]
    torch.testing.assert_close(losses.total, total)


def full_output(batch, wanted):
    groups, slots = 2, max(wanted.max_objects, 1)
    noised = tuple(predictions(batch, groups * 2 * slots, seed=s) for s in (7, 8))
    layers = (predictions(batch, seed=3), predictions(batch, seed=4))
    return DetectorOutput(layers, predictions(batch, seed=5), DenoisingOutput(noised, groups))


def test_every_part_is_there():
    losses = Criterion(CONFIG)(full_output(2, targets(2, 1)), targets(2, 1))
    expected = names_of((Branch.DECODER, 2), (Branch.PROPOSALS, 1), (Branch.DENOISING, 2))
    assert values_of(losses).keys() == expected


def test_denoising_knows_its_pairs():
    """Positives of each group that answer exactly right, everything else silent: no loss."""
    wanted = targets(2, 1)
    boxes, logits = torch.full((2, 8, 4), 0.5, dtype=torch.float64), torch.full((2, 8, 3), -50.0, dtype=torch.float64)
    for image, target in enumerate(wanted.items):
        for start in (0, 4):  # two groups of two positives and two negatives
            for n in range(len(target)):
                boxes[image, start + n] = target.boxes[n]
                logits[image, start + n, target.labels[n]] = 50.0
    right = DenoisingOutput((Predictions(logits, boxes),), 2)
    values = values_of(Criterion(CONFIG)(DetectorOutput((predictions(),), denoising=right), wanted))
    assert max(values[name] for name in names_of((Branch.DENOISING, 1))) < 1e-4


def test_padding_slots_cost_nothing():
    """Image 1 has one object in two slots; what its padding slots (1, 3, 5, 7) predict must not matter."""
    wanted = targets(2, 1)
    output = full_output(2, wanted)
    shouted = [replace(p, class_logits=p.class_logits.clone()) for p in output.denoising.layers]
    for p in shouted:
        p.class_logits[1, 1::2] = 30.0
    loud = replace(output, denoising=DenoisingOutput(tuple(shouted), 2))
    expected, actual = (Criterion(CONFIG)(o, wanted).total for o in (output, loud))
    torch.testing.assert_close(actual, expected)


def test_micro_batches_add_up_to_the_large_batch():
    wanted = targets(3, 1)
    output = full_output(2, wanted)
    whole = Criterion(CONFIG)(output, wanted).total

    def part(p, i):
        return Predictions(p.class_logits[i : i + 1], p.boxes[i : i + 1])

    total = 0
    for i in range(2):
        micro = DetectorOutput(
            tuple(part(p, i) for p in output.layers),
            part(output.proposals, i),
            DenoisingOutput(tuple(part(p, i) for p in output.denoising.layers), 2),
        )
        share = replace(TargetBatch.from_targets([wanted.items[i]]), num_boxes=wanted.num_boxes, max_objects=3)
        total = total + Criterion(CONFIG)(micro, share).total
    torch.testing.assert_close(total, whole)


def test_no_objects_at_all():
    losses = Criterion(CONFIG)(full_output(2, targets(0, 0)), targets(0, 0))
    assert losses.total.isfinite()
    classes, l1, giou = (values_of(losses)[name] for name in DECODER)
    assert (l1, giou) == (0, 0)
    assert classes > 0


def test_half_precision_predictions_are_summed_in_single():
    p = predictions(queries=5)
    half = Predictions(p.class_logits.half(), p.boxes.half())
    assert Criterion(CONFIG)(DetectorOutput((half,)), targets(2, 1)).total.dtype == torch.float32


def hybrid_output(wanted, repeats=2, valid=None):
    others = tuple(replace(predictions(queries=9, seed=s), valid=valid) for s in (7, 8))
    return DetectorOutput((predictions(seed=3),), one_to_many=OneToManyOutput(others, repeats))


def test_one_to_many_queries_are_matched_to_repeated_objects():
    """Each object has as many queries as repeats, the normaliser grows with them, and the branch is their own."""
    wanted = targets(2, 1)
    values = values_of(Criterion(CONFIG)(hybrid_output(wanted), wanted))
    assert values.keys() == names_of((Branch.DECODER, 1), (Branch.ONE_TO_MANY, 2))

    by_hand = [
        Target(torch.cat([t.labels] * 2), torch.cat([t.boxes] * 2), t.image_id, t.original_size) for t in wanted.items
    ]
    for layer, p in enumerate(hybrid_output(wanted).one_to_many.layers):
        alone = Criterion(CONFIG)(DetectorOutput((p,)), TargetBatch.from_targets(by_hand)).parts
        for part in alone:
            torch.testing.assert_close(values[Branch.ONE_TO_MANY, layer, part.term], part.value)
    pairs = pairs_of(predictions(queries=9), wanted, repeats=2)
    assert torch.bincount(pairs.image).tolist() == [4, 2]
    first = pairs.boxes[pairs.image == 0]
    assert sorted(first[:, 0].tolist()) == sorted(wanted.items[0].boxes[:, 0].tolist() * 2)


def test_weight_of_one_to_many_losses():
    wanted = targets(2, 1)
    without = replace(hybrid_output(wanted), one_to_many=None)
    own = Criterion(CONFIG)(without, wanted).total
    once, thrice = (
        Criterion(replace(CONFIG, one_to_many=weight))(hybrid_output(wanted), wanted).total for weight in (1.0, 3.0)
    )
    assert once > own
    torch.testing.assert_close(thrice - own, 3 * (once - own))


def test_one_to_many_queries_on_padding_are_not_matched():
    """Where an image has fewer real queries than repeated objects, the others are left without."""
    valid = torch.ones(2, 9, dtype=torch.bool)
    valid[1, 1:] = False
    wanted = targets(2, 2)
    pairs = pairs_of(replace(predictions(queries=9), valid=valid), wanted, repeats=2)
    assert pairs.query[pairs.image == 1].tolist() == [0]
    assert len(pairs.query[pairs.image == 0]) == 4
    output = hybrid_output(wanted, valid=valid)
    shouted = tuple(replace(p, boxes=p.boxes.clone()) for p in output.one_to_many.layers)
    for p in shouted:
        p.boxes[1, 1:] = 0.9
    loud = replace(output, one_to_many=replace(output.one_to_many, layers=shouted))
    torch.testing.assert_close(Criterion(CONFIG)(loud, wanted).total, Criterion(CONFIG)(output, wanted).total)


def test_no_one_to_many_queries_at_all():
    wanted = targets(2, 1)
    output = DetectorOutput((predictions(),), one_to_many=OneToManyOutput((predictions(queries=0),), 6))
    values = values_of(Criterion(CONFIG)(output, wanted))
    assert [values[name] for name in names_of((Branch.ONE_TO_MANY, 1))] == [0, 0, 0]


def test_foreground_proposals_learn_objects_whatever_their_class():
    wanted = targets(2, 1)
    p, layer = predictions(queries=12, seed=5), predictions(seed=3)  # more of them than queries, as all tokens are
    values = values_of(Criterion(CONFIG)(DetectorOutput((layer,), replace(p, foreground=True)), wanted))
    nameless = [replace(t, labels=torch.zeros_like(t.labels)) for t in wanted.items]
    alone = Criterion(CONFIG)(DetectorOutput((p,)), TargetBatch.from_targets(nameless)).parts
    for part in alone:
        torch.testing.assert_close(values[Branch.PROPOSALS, 0, part.term], part.value)
    assert any(t.labels.any() for t in wanted.items)  # the targets themselves keep their classes
    own = values_of(Criterion(CONFIG)(DetectorOutput((layer,)), wanted))
    assert [values[name] for name in DECODER] == [own[name] for name in DECODER]
