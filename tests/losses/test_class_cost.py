"""The class costs of the matching, against loops over single numbers."""

import math
from dataclasses import replace

import pytest
import torch

from litedetr.boxes import cxcywh_to_xyxy, generalized_iou
from litedetr.losses import Branch, LossConfig
from litedetr.losses.class_cost import Candidates
from litedetr.losses.focal import focal_cost
from litedetr.losses.matcher import match
from litedetr.losses.supervision import Supervision
from litedetr.structures import Predictions, Target, TargetBatch

MODULATED = LossConfig(class_cost="position_modulated")
REAL = torch.tensor([[True, True], [True, False]])


def candidates() -> Candidates:
    """Two images of three queries, with two objects and with one."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    giou = 1.8 * torch.rand(2, 3, 2, generator=generator, dtype=torch.float64) - 1
    giou[1, :, 1] = 0.95  # where there is no object
    return Candidates(Predictions(logits, torch.zeros(2, 3, 4)), torch.tensor([[3, 3], [1, 0]]), REAL, giou)


def focal_by_hand(p: float) -> float:
    return -0.25 * (1 - p) ** 2 * math.log(p + 1e-8) + 0.75 * p**2 * math.log(1 - p + 1e-8)


def test_the_focal_cost_is_that_of_the_objects_class_bit_for_bit():
    given = candidates()
    expected = focal_cost(given.predictions.class_logits, 0.25, 2.0)
    actual = LossConfig().class_cost.cost(given, LossConfig())
    for image, slot in REAL.nonzero().tolist():
        assert torch.equal(actual[image, :, slot], expected[image, :, given.labels[image, slot]])


@pytest.mark.parametrize("valid", [None, torch.tensor([[True, True, False], [True, True, True]])])
def test_the_position_modulated_cost(valid: torch.Tensor | None):
    given = candidates()
    given = replace(given, predictions=replace(given.predictions, valid=valid))
    if valid is not None:
        given.giou[0, 2] = 0.99  # on padding
    actual = MODULATED.class_cost.cost(given, MODULATED)
    for image, num_objects in ((0, 2), (1, 1)):
        usable = [q for q in range(3) if valid is None or valid[image, q]]
        best = max(given.giou[image, q, n].item() for q in usable for n in range(num_objects))
        for query in usable:
            for n in range(num_objects):
                position = (given.giou[image, query, n].item() + 1) / (best + 1)
                logit = given.predictions.class_logits[image, query, given.labels[image, n]].item()
                expected = focal_by_hand(position**0.5 / (1 + math.exp(-logit)))
                assert actual[image, query, n].item() == pytest.approx(expected, rel=1e-9)


def test_a_position_that_is_not_finite_is_its_own_affair():
    given, broken = candidates(), candidates()
    worst = given.giou[0].argmin().item()
    broken.giou[0].view(-1)[worst] = math.nan
    expected, actual = (MODULATED.class_cost.cost(one, MODULATED)[0].flatten() for one in (given, broken))
    assert actual[worst].isnan()
    others = torch.arange(6) != worst
    assert torch.equal(actual[others], expected[others])


def test_a_high_score_elsewhere_does_not_win_the_object():
    """Of two boxes that lie alike by L1 and GIoU weights of zero, the class cost decides: by score, or by both."""
    item = Target(torch.tensor([0]), torch.tensor([[0.5, 0.5, 0.2, 0.2]]), 0, (9, 9))
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.9, 0.9, 0.1, 0.1]]])
    given = Predictions(torch.tensor([[[0.0], [0.5]]]), boxes)
    supervision = Supervision(Branch.DECODER, (given,), TargetBatch.from_targets([item]))
    for config, winner in ((LossConfig(), 1), (MODULATED, 0)):
        config = replace(config, cost=replace(config.cost, l1=0, giou=0))
        ((pairs,),) = match([supervision], config).assignments
        assert pairs.query.tolist() == [winner]


def test_the_default_costs_are_those_of_before_bit_for_bit(monkeypatch: pytest.MonkeyPatch):
    """2 focal + 5 L1 - 2 GIoU, in the order of the published code."""
    from litedetr.losses import matcher

    generator = torch.Generator().manual_seed(0)
    given = Predictions(torch.randn(2, 7, 3, generator=generator), torch.rand(2, 7, 4, generator=generator))
    items = [Target(torch.tensor([n, 2]), torch.rand(2, 4, generator=generator), n, (9, 9)) for n in range(2)]
    wanted = TargetBatch.from_targets(items)
    seen = []
    monkeypatch.setattr(matcher, "to_host", lambda *tensors: seen.extend(tensors) or [x.cpu() for x in tensors])
    match([Supervision(Branch.DECODER, (given,), wanted)], LossConfig())
    for image, item in enumerate(items):
        own, other = given.boxes[image].unsqueeze(1), item.boxes.unsqueeze(0)
        classes = focal_cost(given.class_logits, 0.25, 2.0)[image][:, item.labels]
        giou = generalized_iou(cxcywh_to_xyxy(own), cxcywh_to_xyxy(other))
        assert torch.equal(seen[0][0, image], 2 * classes + 5 * (own - other).abs().sum(-1) - 2 * giou)
