"""The confusion matrix of boxes made by hand."""

import csv

import numpy as np
import pytest
from pycocotools.coco import COCO

from litedetr.engine.coco_metrics import DETECTION
from litedetr.tools.plots.confusion_figure import confusion_figure
from litedetr.tools.plots.confusion_matrix import ConfusionMatrix, MatchRule, confusion_matrix

CAT, DOG, COW = 7, 3, 20  # category ids, neither contiguous nor in the order of the labels: dog 0, cat 1, cow 2
RULE = MatchRule(iou=0.5, min_score=0.3)


def truth(*annotations: tuple, images: int = 2) -> COCO:
    """annotations: (image id, category id, box xywh, crowd)."""
    coco = COCO()
    coco.dataset = {
        "images": [{"id": i, "width": 100, "height": 100} for i in range(1, images + 1)],
        "categories": [{"id": i, "name": n} for i, n in ((CAT, "cat"), (DOG, "dog"), (COW, "cow"))],
        "annotations": [
            {"id": n, "image_id": image, "category_id": c, "bbox": list(box), "area": box[2] * box[3], "iscrowd": crowd}
            for n, (image, c, box, crowd) in enumerate(annotations, start=1)
        ],
    }
    coco.createIndex()
    return coco


def found(*rows: tuple) -> np.ndarray:
    """rows: (image id, category id, box xywh, score)."""
    return np.array(list(rows), DETECTION)


def test_every_case_at_once():
    ground_truth = truth(
        (1, CAT, (0, 0, 10, 10), 0),  # found
        (1, DOG, (20, 0, 10, 10), 0),  # taken for a cat
        (1, DOG, (40, 0, 10, 10), 0),  # missed: its detection's score is too low
        (1, COW, (60, 0, 20, 20), 1),  # a crowd: no object
        (2, CAT, (0, 0, 10, 10), 0),  # missed: its detection overlaps it too little
    )
    detections = found(
        (1, CAT, (0, 0, 10, 10), 0.9),
        (1, CAT, (20, 0, 10, 8), 0.8),
        (1, DOG, (40, 0, 10, 10), 0.29),
        (1, COW, (60, 0, 5, 5), 0.9),  # in the crowd of its class: left out
        (1, COW, (60, 10, 5, 5), 0.9),  # and so is a second one
        (1, DOG, (60, 0, 5, 5), 0.9),  # another class's crowd does not excuse it
        (2, CAT, (0, 0, 10, 4), 0.9),
    )
    result = confusion_matrix(ground_truth, detections, RULE)
    assert result.names == ("dog", "cat", "cow", "background")
    assert result.counts.tolist() == [[0, 1, 0, 1], [0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 0, 0]]
    assert result.shares.tolist() == [[0, 0.5, 0, 0.5], [0, 0.5, 0, 0.5], [0, 0, 0, 0], [0.5, 0.5, 0, 0]]


def test_the_better_detection_chooses_first_and_an_object_is_taken_once():
    """Both overlap the dog most; the second one, listed first, must take the cat beside it or nothing."""
    ground_truth = truth((1, DOG, (0, 0, 10, 10), 0), (1, CAT, (0, 3, 10, 10), 0))
    worse, better = (1, CAT, (0, 0, 10, 10), 0.5), (1, COW, (0, 0, 10, 10), 0.6)
    counts = confusion_matrix(ground_truth, found(worse, better), RULE).counts
    assert counts.tolist() == [[0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]  # IoU with the cat: 7 / 13
    counts = confusion_matrix(ground_truth, found(worse, better), MatchRule(iou=0.6, min_score=0.3)).counts
    assert counts.tolist() == [[0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0]]


def test_the_largest_overlap_wins_over_the_class():
    ground_truth = truth((1, CAT, (0, 2, 10, 10), 0), (1, DOG, (0, 1, 10, 10), 0))
    counts = confusion_matrix(ground_truth, found((1, CAT, (0, 0, 10, 10), 0.9)), RULE).counts
    assert counts.tolist() == [[0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_an_object_in_a_crowd_comes_before_the_crowd():
    ground_truth = truth((1, CAT, (0, 0, 50, 50), 1), (1, CAT, (0, 0, 10, 10), 0))
    assert confusion_matrix(ground_truth, found((1, CAT, (0, 0, 10, 10), 0.9)), RULE).counts[1, 1] == 1


@pytest.mark.parametrize("least", [0.5, 0.3])
def test_the_bounds_themselves_count(least):
    """IoU 0.5 exactly, at a score that equals the threshold."""
    ground_truth = truth((1, CAT, (0, 0, 10, 10), 0))
    counts = confusion_matrix(ground_truth, found((1, CAT, (0, 0, 10, 5), least)), MatchRule(0.5, least)).counts
    assert counts[1, 1] == 1
    assert counts.sum() == 1


def test_nothing_at_all():
    assert confusion_matrix(truth(), found(), RULE).counts.sum() == 0
    assert confusion_matrix(truth((1, CAT, (0, 0, 9, 9), 0)), found(), RULE).counts[1].tolist() == [0, 0, 0, 1]
    assert confusion_matrix(truth(), found((2, DOG, (0, 0, 9, 9), 0.5)), RULE).counts[3].tolist() == [1, 0, 0, 0]


def test_classes_that_never_occur_are_left_out_but_not_the_background(tmp_path):
    result = ConfusionMatrix(
        ("a", "b", "background"), np.array([[0, 0, 0], [0, 4, 0], [0, 0, 0]]), RULE
    ).of_seen_classes()
    assert result.names == ("b", "background")
    assert result.counts.tolist() == [[4, 0], [0, 0]]
    result.write_csv(tmp_path / "matrix.csv")
    rows = list(csv.reader((tmp_path / "matrix.csv").open()))
    assert rows == [["object / detection", "b", "background"], ["b", "4", "0"], ["background", "0", "0"]]


def test_of_too_many_classes_the_least_confused_are_gathered():
    """a is taken for b once and missed twice, c is always right, d once found where nothing is."""
    counts = np.array([[5, 1, 0, 0, 2], [0, 4, 0, 0, 0], [0, 0, 7, 0, 0], [0, 0, 0, 3, 0], [0, 0, 0, 2, 0]])
    whole = ConfusionMatrix(("a", "b", "c", "d", "background"), counts, RULE)
    two = whole.of_most_confused(2)
    assert two.names == ("a", "d", "(2 other classes)", "background")
    assert two.counts.tolist() == [[5, 0, 1, 2], [0, 3, 0, 0], [0, 0, 11, 0], [0, 2, 0, 0]]
    assert whole.of_most_confused(4) is whole


def test_a_thousand_classes_are_drawn_at_a_readable_size():
    counts = np.eye(1001, dtype=np.int64)
    names = (*(f"class {i}" for i in range(1000)), "background")
    width, height = confusion_figure("many", ConfusionMatrix(names, counts, RULE)).get_size_inches()
    assert max(width, height) < 30
