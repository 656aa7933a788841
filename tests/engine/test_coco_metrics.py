"""Scores of hand-made detections, whose values are known without pycocotools."""

import contextlib
import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO

from litedetr.data import Categories
from litedetr.engine.coco_metrics import DETECTION, class_table, coco_scores, detections_as_json, summary_table
from litedetr.engine.evaluation_loop import as_rows
from litedetr.structures import Detections, Target

CATEGORIES = Categories(("cat", "dog", "emu"), (5, 17, 900_000_000_000))
BOXES = [(1, 5, (10, 10, 40, 40)), (1, 17, (60, 10, 20, 30)), (2, 5, (5, 5, 100, 120)), (2, 5, (120, 20, 50, 60))]


def ground_truth(*crowds: dict[str, Any]) -> COCO:
    """Two images with four objects of two classes; nobody has an emu."""
    objects = [{"image_id": i, "category_id": c, "bbox": list(b), "area": b[2] * b[3]} for i, c, b in BOXES]
    annotations = [{"iscrowd": 0} | entry | {"id": n} for n, entry in enumerate([*objects, *crowds], start=1)]
    coco = COCO()
    coco.dataset = {
        "images": [{"id": i, "width": 200, "height": 200, "file_name": str(i)} for i in (1, 2)],
        "categories": [{"id": i, "name": n} for i, n in zip(CATEGORIES.ids, CATEGORIES.names, strict=True)],
        "annotations": annotations,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def detections(rows: list[tuple[int, int, tuple]], scores: list[float] | None = None) -> np.ndarray:
    scores = scores or [0.9] * len(rows)
    return np.array([(i, c, b, s) for (i, c, b), s in zip(rows, scores, strict=True)], DETECTION)


def test_perfect_detections_score_one(capsys: pytest.CaptureFixture[str]):
    scores = coco_scores(ground_truth(), detections(BOXES), CATEGORIES)
    assert scores.ap == pytest.approx(1.0)
    assert scores.summary["AR_100"] == pytest.approx(1.0)
    assert [score.num_objects for score in scores.classes] == [3, 1, 0]
    assert capsys.readouterr().out == ""


def test_half_of_the_objects_by_class():
    """All dogs, one cat of three: precision 1 up to recall 1/3, which holds 34 of the 101 recall points."""
    scores = coco_scores(ground_truth(), detections([BOXES[0], BOXES[1]]), CATEGORIES)
    cat, dog, emu = scores.classes
    assert dog.ap == pytest.approx(1.0)
    assert (cat.ap, cat.ap50) == pytest.approx((34 / 101, 34 / 101))
    assert math.isnan(emu.ap)
    assert scores.ap == pytest.approx((1 + 34 / 101) / 2)


def test_a_loose_box_counts_at_half_overlap_only():
    loose = [(*BOXES[1][:2], (60, 10, 20, 18))]  # IoU 0.6 with the dog
    dog = coco_scores(ground_truth(), detections(loose), CATEGORIES).classes[1]
    assert dog.ap50 == pytest.approx(1.0)
    assert dog.ap == pytest.approx(0.3)  # thresholds 0.50, 0.55 and 0.60 of ten


def test_the_wrong_class_scores_nothing():
    swapped = [(i, {5: 17, 17: 5}[c], b) for i, c, b in BOXES]
    assert coco_scores(ground_truth(), detections(swapped), CATEGORIES).ap == 0


def test_no_detections_score_zero():
    scores = coco_scores(ground_truth(), np.empty(0, DETECTION), CATEGORIES)
    assert scores.ap == 0
    assert scores.summary["AR_100"] == 0


def test_a_detection_in_a_crowd_is_no_mistake():
    """Two false alarms before the dog halve its precision, unless a crowd of dogs covers them."""
    rows = [(1, 17, (100, 100, 30, 30)), (1, 17, (140, 100, 30, 30)), BOXES[1]]
    found = detections(rows, [0.9, 0.8, 0.7])
    crowd = {"image_id": 1, "category_id": 17, "bbox": [90, 90, 100, 100], "area": 10_000, "iscrowd": 1}
    assert coco_scores(ground_truth(), found, CATEGORIES).classes[1].ap == pytest.approx(1 / 3)
    with_crowd = coco_scores(ground_truth(crowd), found, CATEGORIES).classes[1]
    assert with_crowd.ap == pytest.approx(1.0)
    assert with_crowd.num_objects == 1


def test_only_the_best_hundred_detections_of_an_image_count():
    false_alarms = [(1, 17, (150, 150, 10 + n / 10, 10)) for n in range(100)]
    found = detections([*false_alarms, BOXES[1]], [0.9] * 100 + [0.1])
    assert coco_scores(ground_truth(), found, CATEGORIES).classes[1].ap == 0
    assert coco_scores(ground_truth(), found[1:], CATEGORIES).classes[1].ap == pytest.approx(0.01)


def test_rows_carry_raw_ids_and_boxes_as_corner_and_size():
    target = Target(torch.empty(0), torch.empty(0, 4), image_id=2**40, original_size=(200, 200))
    found = Detections(torch.tensor([0.5, 0.25]), torch.tensor([2, 0]), torch.tensor([[1.0, 2, 4, 8], [0, 0, 1, 1]]))
    assert detections_as_json(as_rows(target, found, CATEGORIES)) == [
        {"image_id": 2**40, "category_id": 900_000_000_000, "bbox": [1, 2, 3, 6], "score": 0.5},
        {"image_id": 2**40, "category_id": 5, "bbox": [0, 0, 1, 1], "score": 0.25},
    ]


def test_tables_show_all_numbers_and_mark_the_undefined():
    scores = coco_scores(ground_truth(), detections([BOXES[0], BOXES[1]]), CATEGORIES)
    summary, classes = summary_table(scores), class_table(scores)
    assert all(name in summary for name in scores.summary)
    assert "0.668" in summary
    emu = next(line for line in classes.splitlines() if "emu" in line)
    assert emu.split() == ["emu", "0", "-", "-"]
    assert scores.to_mapping()["classes"]["emu"] == {"AP": None, "AP50": None, "objects": 0}
