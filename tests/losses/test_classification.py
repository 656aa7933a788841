"""Class losses that know the box, against loops over single numbers."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from litedetr.losses import Branch, Criterion, LossConfig
from litedetr.losses.classification import CLASSIFICATION_LOSSES
from litedetr.losses.focal import focal_loss
from litedetr.losses.supervision import Assignment
from litedetr.losses.terms import TERMS, Matched
from litedetr.settings import ConfigError, from_mapping
from litedetr.structures import (
    DenoisingOutput,
    DetectorOutput,
    OneToManyOutput,
    Predictions,
    Target,
    TargetBatch,
)

IMAGE, QUERY, LABELS = (0, 0, 1, 1), (3, 1, 2, 0), (2, 0, 1, 1)  # of four objects
KNOW_THE_BOX = [name for name in CLASSIFICATION_LOSSES if name != "focal"]


class Place(NamedTuple):
    """A query and a class."""

    p: float  # the probability, that a gradient goes through
    fixed: float  # the same number, that none goes through
    iou: float | None  # of the query's box with its object's, if this is its object's class
    best: float  # the largest IoU of an image's queries with their objects


def bce(p: float, t: float) -> float:
    return -t * math.log(p) - (1 - t) * math.log(1 - p)


def focal(x: Place) -> float:
    if x.iou is None:
        return -0.75 * x.p**2 * math.log(1 - x.p)
    return -0.25 * (1 - x.p) ** 2 * math.log(x.p)


def varifocal(x: Place) -> float:
    return -0.75 * x.fixed**2 * math.log(1 - x.p) if x.iou is None else x.iou * bce(x.p, x.iou)


def ia_bce(x: Place) -> float:
    if x.iou is None:
        return -(x.p**2) * math.log(1 - x.p)
    return bce(x.p, max(x.fixed**0.25 * x.iou**0.75, 0.01))


def position_supervised(x: Place) -> float:
    if x.iou is None:
        return -0.75 * x.p**2 * math.log(1 - x.p)
    target = (x.iou / x.best) ** 2
    return 0.25 * (target - x.p) ** 2 * bce(x.p, target)


def matchability_aware(x: Place) -> float:
    return -(x.fixed**1.5) * math.log(1 - x.p) if x.iou is None else bce(x.p, x.iou**1.5)


FORMULAS: dict[str, Callable[[Place], float]] = {
    one.__name__: one for one in (focal, varifocal, ia_bce, position_supervised, matchability_aware)
}


def iou_of(a: list[float], b: list[float]) -> float:
    """Of two boxes (cx, cy, w, h)."""
    sides = [
        max(0.0, min(a[i] + a[i + 2] / 2, b[i] + b[i + 2] / 2) - max(a[i] - a[i + 2] / 2, b[i] - b[i + 2] / 2))
        for i in (0, 1)
    ]
    common = sides[0] * sides[1]
    return common / (a[2] * a[3] + b[2] * b[3] - common)


def example(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Assignment]:
    """Logits (2, 4, 3) and boxes (2, 4, 4), and four pairs: of much, little, much and no overlap."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
    boxes = 0.2 + 0.2 * torch.rand(2, 4, 4, generator=generator, dtype=torch.float64)
    targets = boxes[list(IMAGE), list(QUERY)] + torch.tensor([[0.01], [0.1], [0.02], [0.3]], dtype=torch.float64)
    targets[1, :2] += 0.1
    targets[3, :2] += 0.3
    pairs = Assignment(torch.tensor(IMAGE), torch.tensor(QUERY), torch.tensor(LABELS), targets)
    return logits.to(dtype), boxes.to(dtype), pairs


def matched_of(logits: Tensor, boxes: Tensor, pairs: Assignment, in_class_loss: Tensor | None = None) -> Matched:
    return Matched.of(Predictions(logits, boxes), pairs, in_class_loss)


def by_hand(name: str, logits: Tensor, fixed: Tensor, boxes: Tensor, pairs: Assignment) -> dict[tuple, float]:
    """The loss of every image, query and class."""
    objects = {
        (image, query): (label, iou_of(boxes[image, query].tolist(), box))
        for image, query, label, box in zip(IMAGE, QUERY, LABELS, pairs.boxes.tolist(), strict=True)
    }
    found = {}
    for place in [(i, q, k) for i in range(2) for q in range(4) for k in range(3)]:
        image, query, label = place
        own, iou = objects.get((image, query), (None, None))
        best = max(value for (other, _), (_, value) in objects.items() if other == image)
        p, p_fixed = (1 / (1 + math.exp(-x[place].item())) for x in (logits, fixed))
        found[place] = FORMULAS[name](Place(p, p_fixed, iou if own == label else None, best))
    return found


def test_the_example_has_pairs_of_every_kind():
    _, boxes, pairs = example()
    overlaps = [iou_of(boxes[i, q].tolist(), b) for i, q, b in zip(IMAGE, QUERY, pairs.boxes.tolist(), strict=True)]
    assert overlaps == pytest.approx([0.881, 0.062, 0.788, 0], abs=1e-3)
    torch.testing.assert_close(matched_of(*example()).iou(), torch.tensor(overlaps, dtype=torch.float64))


@pytest.mark.parametrize("name", CLASSIFICATION_LOSSES)
def test_every_number_is_the_papers(name: str):
    logits, boxes, pairs = example()
    config = LossConfig(classification=name)
    actual = config.classification.loss(matched_of(logits, boxes, pairs), config)
    expected = by_hand(name, logits, logits, boxes, pairs)
    assert {place: actual[place].item() for place in expected} == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", CLASSIFICATION_LOSSES)
def test_gradients_are_those_of_finite_differences(name: str):
    """Targets, and the factors that have no gradient, held fixed."""
    logits, boxes, pairs = example()
    boxes.requires_grad_()
    given = logits.clone().requires_grad_()
    config = LossConfig(classification=name)
    value = TERMS["classes"](matched_of(given, boxes, pairs), config)
    (gradient,) = torch.autograd.grad(value, given, retain_graph=True)
    assert torch.autograd.grad(value, boxes, allow_unused=True) == (None,)
    step = 1e-5
    up, down = (by_hand(name, logits + sign * step, logits, boxes.detach(), pairs) for sign in (1, -1))
    for place in up:  # a loss depends on its own logit only
        assert gradient[place].item() == pytest.approx((up[place] - down[place]) / (2 * step), rel=1e-6, abs=1e-9)


def test_the_default_is_the_published_loss_bit_for_bit():
    logits, boxes, pairs = example(torch.float32)
    onehot = torch.zeros(2, 4, 3)
    onehot[list(IMAGE), list(QUERY), list(LABELS)] = 1
    for alpha, gamma in ((0.25, 2.0), (0.4, 1.5)):
        config = LossConfig(focal_alpha=alpha, focal_gamma=gamma)
        value = TERMS["classes"](matched_of(logits, boxes, pairs), config)
        assert torch.equal(value, focal_loss(logits, onehot, alpha, gamma).sum())


def test_settings_of_before_mean_the_published_loss():
    """As checkpoints hold them, without a name."""
    old = {"cost": {"classes": 2.0, "l1": 5.0, "giou": 2.0}, "focal_alpha": 0.3, "focal_gamma": 1.0}
    config = from_mapping(LossConfig, old, "loss")
    assert config == LossConfig(focal_alpha=0.3, focal_gamma=1.0)
    assert (config.classification.name, config.class_cost.name) == ("focal", "focal")


@pytest.mark.parametrize("name", CLASSIFICATION_LOSSES)
def test_padding_slots_are_not_in_the_loss(name: str):
    logits, boxes, pairs = example()
    shown = torch.ones(2, 4, dtype=torch.bool)
    shown[1, 3] = False
    config = LossConfig(classification=name)
    value = TERMS["classes"](matched_of(logits, boxes, pairs, shown), config)
    expected = by_hand(name, logits, logits, boxes, pairs)
    assert value.item() == pytest.approx(sum(v for place, v in expected.items() if place[:2] != (1, 3)), rel=1e-12)


def batch(*counts: int) -> TargetBatch:
    generator = torch.Generator().manual_seed(1)
    items = []
    for image, n in enumerate(counts):
        labels, boxes = torch.randint(3, (n,), generator=generator), torch.rand(n, 4, generator=generator)
        items.append(Target(labels, 0.2 + 0.4 * boxes, image, (9, 9)))
    return TargetBatch.from_targets(items)


def predictions(queries: int, seed: int, foreground: bool = False) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    boxes = 0.2 + 0.4 * torch.rand(2, queries, 4, generator=generator)
    return Predictions(torch.randn(2, queries, 3, generator=generator), boxes, foreground)


def every_branch(slots: int) -> DetectorOutput:
    return DetectorOutput(
        (predictions(5, 0), predictions(5, 1)),
        predictions(12, 2, foreground=True),
        DenoisingOutput((predictions(4 * slots, 3),), 2),
        OneToManyOutput((predictions(9, 4),), 2),
    )


def configured(name: str) -> LossConfig:
    """With the class cost that belongs to the loss."""
    return LossConfig(classification=name, class_cost="position_modulated" if "position" in name else "focal")


@pytest.mark.parametrize("name", CLASSIFICATION_LOSSES)
def test_an_image_adds_what_it_adds_alone(name: str):
    """In every branch: decoder, proposals of foreground, denoising and one-to-many queries."""
    wanted, output = batch(3, 1), every_branch(slots=3)
    criterion = Criterion(configured(name))
    whole = criterion(output, wanted)
    assert {part.branch for part in whole.parts} == set(Branch)

    def image(p: Predictions, i: int) -> Predictions:
        return replace(p, class_logits=p.class_logits[i : i + 1], boxes=p.boxes[i : i + 1])

    total = 0
    for i in range(2):
        alone = DetectorOutput(
            tuple(image(p, i) for p in output.layers),
            image(output.proposals, i),
            DenoisingOutput(tuple(image(p, i) for p in output.denoising.layers), 2),
            OneToManyOutput(tuple(image(p, i) for p in output.one_to_many.layers), 2),
        )
        share = replace(TargetBatch.from_targets([wanted.items[i]]), num_boxes=wanted.num_boxes, max_objects=3)
        total = total + criterion(alone, share).total
    torch.testing.assert_close(total, whole.total)


@pytest.mark.parametrize("name", CLASSIFICATION_LOSSES)
def test_without_objects_or_queries(name: str):
    output = replace(every_branch(slots=1), one_to_many=OneToManyOutput((predictions(0, 4),), 2))
    for wanted in (batch(0, 0), batch(0, 1)):
        losses = Criterion(configured(name))(output, wanted)
        assert losses.total.isfinite()
        assert losses.has_finite_costs
        (decoder,) = [p.value for p in losses.parts if p.name == (Branch.DECODER, 0, "classes")]
        assert decoder > 0


@pytest.mark.parametrize("name", CLASSIFICATION_LOSSES)
@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_box_that_is_not_finite_is_noticed(name: str, number: float):
    output = every_branch(slots=1)
    output.layers[0].boxes[0, 2] = number
    assert not Criterion(configured(name))(output, batch(1, 1)).has_finite_costs
    boxes = torch.full((2, 5, 4), number)
    everywhere = replace(output, layers=(replace(output.layers[0], boxes=boxes),))
    assert not Criterion(configured(name))(everywhere, batch(1, 1)).total.isfinite()


@pytest.mark.parametrize("name", CLASSIFICATION_LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_losses_are_summed_in_single_precision_at_least(name: str, dtype: torch.dtype):
    """And scores of 0 and 1 have a finite loss and a finite gradient."""
    logits = torch.tensor([[-60.0, 60.0, 0.0]] * 5, dtype=dtype).expand(2, -1, -1).clone().requires_grad_()
    given = Predictions(logits, predictions(5, 0).boxes.to(dtype))
    losses = Criterion(configured(name))(DetectorOutput((given,)), batch(2, 1))
    assert losses.total.dtype == torch.promote_types(dtype, torch.float32)
    losses.total.backward()
    assert losses.total.isfinite()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("name", KNOW_THE_BOX)
def test_a_better_box_learns_a_higher_score(name: str):
    """The score that costs least follows the box: the focal loss would have it at 1."""
    config = LossConfig(classification=name)
    logits = torch.linspace(-8, 8, 1601, dtype=torch.float64)
    learned = []
    for shift in (0.0, 0.04, 0.08):
        _, boxes, pairs = example()
        offset = torch.tensor([shift, 0, 0, 0], dtype=torch.float64)
        pairs = replace(pairs, boxes=boxes[list(IMAGE), list(QUERY)] + torch.stack([offset, *[0 * offset] * 3]))
        losses = []
        for value in logits:
            given = torch.full((2, 4, 3), value.item(), dtype=torch.float64)
            losses.append(config.classification.loss(matched_of(given, boxes, pairs), config)[0, 3, 2].item())
        learned.append(logits[losses.index(min(losses))].sigmoid().item())
    assert learned[0] > learned[1] > learned[2] > 0
    assert learned[0] > 0.99


@pytest.mark.parametrize("name", ["ia_bce", "position_supervised"])
def test_exponents_whose_gradient_would_be_infinite_are_refused(name: str):
    with pytest.raises(ConfigError, match=r"gamma: expected at least 1, got 0.5$"):
        LossConfig(classification={"name": name, "gamma": 0.5})
