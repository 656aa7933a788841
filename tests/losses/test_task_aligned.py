"""Which tokens learn which object, against loops over every token and object."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from litedetr.losses import Branch, Criterion, LossConfig
from litedetr.losses.focal import focal_loss
from litedetr.losses.supervision import Supervision, supervise
from litedetr.losses.task_aligned import owners
from litedetr.structures import DenseOutput, DetectorOutput, Predictions, Target, TargetBatch

NUM_CLASSES, SIDES = 3, (8, 4)  # levels of 8 x 8 and 4 x 4 tokens


def centres_of_levels(batch: int) -> Tensor:
    found = [((x + 0.5) / side, (y + 0.5) / side) for side in SIDES for y in range(side) for x in range(side)]
    return torch.tensor(found, dtype=torch.float64).expand(batch, -1, -1)


def dense_output(batch: int, num_positives: int = 4, valid: Tensor | None = None, seed: int = 0) -> DenseOutput:
    generator = torch.Generator().manual_seed(seed)
    centres = centres_of_levels(batch)
    sizes = torch.rand(*centres.shape, generator=generator, dtype=torch.float64) * 0.4 + 0.05
    moved = centres + 0.05 * torch.randn(*centres.shape, generator=generator, dtype=torch.float64)
    logits = torch.randn(*centres.shape[:2], NUM_CLASSES, generator=generator, dtype=torch.float64)
    return DenseOutput(Predictions(logits, torch.cat([moved, sizes], dim=-1), valid=valid), centres, num_positives)


def targets_of(*boxes_of_images: list[list[float]]) -> TargetBatch:
    """Objects of the classes 0, 1, 2, 0, ... in each image."""
    return TargetBatch.from_targets(
        [
            Target(torch.arange(len(b)) % NUM_CLASSES, torch.tensor(b, dtype=torch.float64).view(-1, 4), i, (64, 64))
            for i, b in enumerate(boxes_of_images)
        ]
    )


def random_targets(*counts: int, least: float = 0.02, most: float = 0.6) -> TargetBatch:
    generator = torch.Generator().manual_seed(4)
    images = []
    for count in counts:
        centres = torch.rand(count, 2, generator=generator, dtype=torch.float64)
        sizes = torch.rand(count, 2, generator=generator, dtype=torch.float64) * (most - least) + least
        images.append(torch.cat([centres, sizes], dim=1).tolist())
    return targets_of(*images)


def overlap(a: list[float], b: list[float]) -> float:
    """IoU of two boxes in cxcywh."""
    sides = [
        max(0.0, min(a[i] + a[i + 2] / 2, b[i] + b[i + 2] / 2) - max(a[i] - a[i + 2] / 2, b[i] - b[i + 2] / 2))
        for i in (0, 1)
    ]
    common = sides[0] * sides[1]
    return common / (a[2] * a[3] + b[2] * b[3] - common)


def wanted_by(box: list[float], label: int, image: int, dense: DenseOutput) -> list[int]:
    """The tokens that an object wants."""
    predictions, centres = dense.predictions, dense.centres[image].tolist()
    boxes, scores = predictions.boxes[image].tolist(), predictions.class_logits[image, :, label].sigmoid().tolist()
    usable = [n for n in range(len(boxes)) if predictions.valid is None or predictions.valid[image, n]]
    inside = [n for n in usable if all(abs(centres[n][i] - box[i]) < box[i + 2] / 2 for i in (0, 1))]
    inside = inside or [min(usable, key=lambda n: sum((centres[n][i] - box[i]) ** 2 for i in (0, 1)))]
    best_first = sorted(inside, key=lambda n: scores[n] * overlap(boxes[n], box) ** 6, reverse=True)
    return best_first[: dense.num_positives]


def owner_of(token: int, wanted: list[list[int]], overlaps: list[float]) -> int | None:
    """Which object of an image learns from a token, given what each wants, and its IoU with each."""
    claims = [k for k, tokens in enumerate(wanted) if token in tokens]
    only = [k for k in claims if len(wanted[k]) == 1]
    return max(only or claims, key=overlaps.__getitem__, default=None)


def owners_by_loops(dense: DenseOutput, targets: TargetBatch) -> list[list[int]]:
    found, first = [], 0
    for image, target in enumerate(targets.items):
        objects = target.boxes.tolist()
        wanted = [wanted_by(*one, image, dense) for one in zip(objects, target.labels.tolist(), strict=True)]
        row = []
        for token, box in enumerate(dense.predictions.boxes[image].tolist()):
            owner = owner_of(token, wanted, [overlap(box, one) for one in objects])
            row.append(-1 if owner is None else first + owner)
        found.append(row)
        first += len(target)
    return found


@pytest.mark.parametrize("num_positives", [1, 4, 13, 500])
@pytest.mark.parametrize("counts", [(3, 1), (0, 5), (40, 2), (0, 0)])
def test_owners_are_those_of_the_loops(num_positives, counts):
    dense, targets = dense_output(2, num_positives), random_targets(*counts)
    assert owners(dense, targets).tolist() == owners_by_loops(dense, targets)


def test_many_small_objects_as_in_the_loops():
    dense, targets = dense_output(3, 13), random_targets(30, 0, 7, least=0.001, most=0.1)
    found = owners(dense, targets)
    assert found.tolist() == owners_by_loops(dense, targets)
    assert 20 < len(found[0].unique()) - 1 <= 30  # objects that share their only token leave it to one of them


def test_padding_learns_nothing():
    valid = torch.ones(2, 80, dtype=torch.bool)
    valid[1, 20:64] = False
    valid[1, 70:] = False
    dense, targets = dense_output(2, 13, valid), random_targets(4, 6)
    found = owners(dense, targets)
    assert found.tolist() == owners_by_loops(dense, targets)
    assert (found[1][~valid[1]] == -1).all()
    assert found.tolist() != owners(dense_output(2, 13), targets).tolist()


def test_an_object_without_a_centre_in_it_is_learned_by_the_nearest_token():
    dense = dense_output(1)
    found = owners(dense, targets_of([[0.30, 0.55, 0.01, 0.01]]))  # the nearest centre is (0.3125, 0.5625)
    ((_, token),) = (found >= 0).nonzero().tolist()
    assert dense.centres[0, token].tolist() == [0.3125, 0.5625]


def test_an_object_keeps_its_only_token():
    """Although a large object has the larger IoU there; without the small one it learns from that token."""
    large, small = [0.5, 0.5, 0.9, 0.9], [0.3125, 0.5625, 0.02, 0.02]
    dense = dense_output(1, 500)
    token = dense.centres[0].tolist().index([0.3125, 0.5625])
    dense.predictions.boxes[0, token] = torch.tensor(large)
    assert owners(dense, targets_of([large]))[0, token] == 0
    found = owners(dense, targets_of([large, small]))[0]
    assert found[token] == 1
    assert (found == 1).sum() == 1
    assert (found == 0).sum() > 20


def test_owners_in_an_image_do_not_depend_on_the_batch():
    dense, targets = dense_output(2), random_targets(3, 25)
    of_first = Predictions(dense.predictions.class_logits[:1], dense.predictions.boxes[:1])
    alone = DenseOutput(of_first, dense.centres[:1], dense.num_positives)
    (expected,) = owners(alone, TargetBatch.from_targets([targets.items[0]]))
    assert torch.equal(owners(dense, targets)[0], expected)


def layer(batch: int) -> Predictions:
    return dense_output(batch, seed=9).predictions.split(10)[0]


def dense_values(dense: DenseOutput, targets: TargetBatch) -> dict[str, Tensor]:
    losses = Criterion(LossConfig())(DetectorOutput((layer(len(targets)),), dense=dense), targets)
    return {part.term: part.value for part in losses.parts if part.branch is Branch.DENSE}


def test_loss_spelled_out():
    dense, targets = dense_output(2), random_targets(3, 2)
    values, (which,) = dense_values(dense, targets), [owners(dense, targets)]
    wanted = torch.zeros_like(dense.predictions.class_logits)
    l1 = torch.zeros(())
    for image, token in (which >= 0).nonzero().tolist():
        number = which[image, token]
        wanted[image, token, targets.labels[number]] = 1
        l1 = l1 + (dense.predictions.boxes[image, token] - targets.boxes[number]).abs().sum()
    assert wanted.sum() > 5
    expected = focal_loss(dense.predictions.class_logits, wanted, 0.25, 2.0).sum() / (5 * 4)
    torch.testing.assert_close(values["classes"], expected)
    torch.testing.assert_close(values["l1"], l1 / (5 * 4))


def test_weight_of_the_dense_loss():
    dense, targets = dense_output(2), random_targets(3, 2)
    without, once, thrice = (
        Criterion(LossConfig(dense=weight))(DetectorOutput((layer(2),), dense=dense), targets).total
        for weight in (0.0, 1.0, 3.0)
    )
    assert without == Criterion(LossConfig())(DetectorOutput((layer(2),)), targets).total
    assert once > without
    torch.testing.assert_close(thrice - without, 3 * (once - without))


def test_no_objects_cost_only_classes():
    values = dense_values(dense_output(2), random_targets(0, 0))
    assert (values["l1"], values["giou"]) == (0, 0)
    assert values["classes"] > 0


@pytest.mark.parametrize("part", ["boxes", "class_logits"])
def test_a_nan_is_noticed_wherever_it_is_but_on_padding(part):
    """Of a token that learns nothing the loss may be finite; the criterion says that predictions are not."""
    valid = torch.ones(1, 80, dtype=torch.bool)
    valid[0, -1] = False
    targets = targets_of([[0.3, 0.3, 0.1, 0.1]])
    for token, finite in ((0, False), (79, True)):
        dense = dense_output(1, valid=valid)
        getattr(dense.predictions, part)[0, token] = torch.nan
        losses = Criterion(LossConfig(dense=0.0))(DetectorOutput((layer(1),), dense=dense), targets)
        assert losses.has_finite_costs == finite


def test_the_supervision_of_half_precision_is_in_single():
    dense, targets = dense_output(1), random_targets(3)
    half = replace(dense.predictions, class_logits=dense.predictions.class_logits.half())
    found = supervise(DetectorOutput((layer(1),), dense=replace(dense, predictions=half)), targets)[-1]
    assert isinstance(found, Supervision)
    assert found.layers[0].class_logits.dtype == torch.float32
