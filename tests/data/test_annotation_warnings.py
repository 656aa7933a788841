"""What would train to nothing is said at the start; a proper set is passed over in silence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from litedetr.data import CocoDetection, DataConfig, ShapesConfig, TransformConfig, build_datasets
from litedetr.data.dataset_layout import SplitFiles

Content = dict[str, Any]
Write = Callable[..., SplitFiles]
BOXES = ([10, 12, 8, 6], [20, 4, 12, 10], [1, 1, 6, 6], [5, 7, 3, 3])


def objects(*boxes: list[float], **fields: Any) -> list[Content]:
    """One an image and a class, in turn, with ids from 21."""
    return [
        {"id": 21 + number, "image_id": 9, "category_id": (5, 90)[number % 2], "bbox": box} | fields
        for number, box in enumerate(boxes)
    ]


CASES = {
    "all crowds": (
        objects(*BOXES, iscrowd=1),
        "all 4 objects are marked iscrowd or ignore, the first is annotation id 21",
    ),
    "all ignored": (
        objects(*BOXES, ignore=1),
        "all 4 objects are marked iscrowd or ignore, the first is annotation id 21",
    ),
    "no objects": ([], "its 3 images have no objects"),
    "relative": (
        objects([0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 0.5, 0.5], [0, 0, 1, 1]),
        "3 of 3 boxes lie within 0 to 1, where COCO has pixels, the first is annotation id 21",
    ),
    "relative corners": (
        objects([0.4, 0.5, 0.9, 1], [0.1, 0.1, 0.3, 0.3], [0.6, 0.7, 0.8, 0.9]),
        "3 of 3 boxes lie within 0 to 1, where COCO has pixels, the first is annotation id 21",
    ),
    "outside to the left": (
        objects([-9, -9, 4, 5], [-8, -7, 4, 5]),
        "2 of 2 boxes lie outside their image and are left out, the first is annotation id 21",
    ),
    "under a pixel": (
        objects(*BOXES, [7, 7, 0.4, 5]),
        "1 of 5 boxes are less than a pixel wide or high, the first is annotation id 25",
    ),
    "no area": (
        objects(*BOXES, [7, 7, 0, 5], [7, 7, 5, 0]),
        "2 of 6 boxes have no width or height and are left out, the first is annotation id 25",
    ),
    "outside": (
        objects(*BOXES, [70, 7, 4, 5], [7, -9, 4, 5]),
        "2 of 6 boxes lie outside their image and are left out, the first is annotation id 25",
    ),
    "beyond": (
        objects(*BOXES, [30, 7, 40, 5], [7, -9, 4, 15]),
        "2 of 6 boxes stick out of their image and are clipped, the first is annotation id 25",
    ),
    "corners": (
        objects([10, 6, 18, 12], [25, 5, 39, 18], [30, 10, 38, 19]),
        "2 of 3 boxes stick out of their image and are clipped, which look like [x1, y1, x2, y2] where COCO has "
        "[x, y, width, height], the first is annotation id 22",
    ),
    "a class": (objects(BOXES[0]), "no object of 1 of 2 classes: dog"),
    "an ignored class": (
        [*objects(BOXES[0]), {"id": 99, "image_id": 7, "category_id": 90, "bbox": [1, 1, 5, 5], "ignore": 1}],
        "no object of 1 of 2 classes: dog (1 are marked iscrowd or ignore)",
    ),
    "no ids": (
        [{k: v for k, v in entry.items() if k != "id"} for entry in objects(*BOXES, [7, 7, 0, 5])],
        "1 of 5 boxes have no width or height and are left out, the first is annotation number 4",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_odd_is_told_with_counts_and_an_example(
    name: str, content: Content, write: Write, native: TransformConfig
) -> None:
    content["annotations"], expected = CASES[name]
    files = write(content)
    (note,) = CocoDetection(files, native, training=True).notes
    end = ": nothing can be learned or scored" if expected.startswith(("all", "its")) else ""
    assert note == f"warning: {files.annotations}: {expected}{end}"


def test_objects_of_other_classes_do_not_count(content: Content, write: Write, native: TransformConfig) -> None:
    content["annotations"] = objects(BOXES[0])
    files = write(content)
    (note,) = CocoDetection(files, native, training=True, classes=("dog",)).notes
    why = "none of 1 objects is of the classes dog, the first is annotation id 21"
    assert note == f"warning: {files.annotations}: {why}: nothing can be learned or scored"


def test_a_proper_set_needs_no_remark(content: Content, write: Write, native: TransformConfig, cache: Path) -> None:
    """A box that sticks out by two pixels, a crowd and an image without objects are no fault."""
    content["annotations"] += objects(*BOXES, [30, 8, 12, 13])
    assert CocoDetection(write(content), native, training=True).notes == []
    shapes = ShapesConfig(str(cache), num_train=40, num_val=40, min_side=64, max_side=96)
    assert build_datasets(DataConfig("shapes", native, shapes=shapes), seed=0).notes == []


def test_both_splits_are_told_of(content: Content, write: Write, native: TransformConfig, tmp_path: Path) -> None:
    write(content | {"annotations": []}, "train")
    write(content | {"annotations": objects(BOXES[0])}, "val")
    train, val = build_datasets(DataConfig("coco", native, root=str(tmp_path)), seed=0).notes
    assert "instances_train.json: its 3 images have no objects" in train
    assert "instances_val.json: no object of 1 of 2 classes: dog" in val
