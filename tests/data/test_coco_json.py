import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from litedetr.data import Categories, DataError, coco_ground_truth
from litedetr.data.coco_json import CocoJson, ImageTable
from litedetr.data.dataset_layout import SplitFiles
from litedetr.engine.coco_metrics import DETECTION, coco_scores

Content = dict[str, Any]
Write = Callable[..., SplitFiles]


def read_table(files: SplitFiles) -> ImageTable:
    coco = CocoJson.read(files.annotations)
    return coco.table(Categories.from_coco(coco.categories))


def annotation(**changes: Any) -> Callable[[Content], None]:
    return lambda content: content["annotations"][1].update(changes)


def image(**changes: Any) -> Callable[[Content], None]:
    return lambda content: content["images"][1].update(changes)


def without(entries: str, key: str) -> Callable[[Content], None]:
    return lambda content: content[entries][1].pop(key)


def duplicate(entries: str) -> Callable[[Content], None]:
    return lambda content: content[entries].append(content[entries][1])


BROKEN = {
    "no images key": (lambda c: c.pop("images"), "'images'"),
    "no annotations key": (lambda c: c.pop("annotations"), "'annotations'"),
    "categories are names": (lambda c: c.update(categories=["cat"]), "'categories'"),
    "no images": (lambda c: c.update(images=[]), "no images"),
    "no categories": (lambda c: c.update(categories=[]), "no categories"),
    "image twice": (duplicate("images"), "image id 4 occurs twice"),
    "annotation twice": (duplicate("annotations"), "annotation id 11 occurs twice"),
    "category twice": (duplicate("categories"), "category id 5 occurs twice"),
    "image id as text": (image(id="4"), "image number 1: expected 'id' of type int, got '4'"),
    "image id beyond 64 bits": (image(id=2**63), "image id 9223372036854775808"),
    "category id beyond 64 bits": (
        lambda c: c["categories"][1].update(id=2**63),
        "category id 9223372036854775808 does not fit 64 bits",
    ),
    "no file name": (without("images", "file_name"), "image id 4: expected 'file_name'"),
    "no width": (without("images", "width"), "image id 4: expected 'width'"),
    "empty image": (image(height=0), "image id 4: expected a positive size .* got 30x0"),
    "image beyond 32 bits": (image(width=2**31), "image id 4: expected a positive size .* got 2147483648x50"),
    "image of a size beyond floats": (image(height=10**400), "image id 4: expected a positive size .* got 30x1000000"),
    "category name of two lines": (lambda c: c["categories"][1].update(name="a\nb"), "category id 5: expected a name"),
    "category name that is no text": (
        lambda c: c["categories"][1].update(name="\ud800"),
        "category id 5: expected a name",
    ),
    "no category name": (without("categories", "name"), "category id 5: expected 'name'"),
    "unknown image": (annotation(image_id=99), "annotation id 11: there is no image with the id 99"),
    "unknown category": (annotation(category_id=6), "annotation id 11: there is no category with the id 6"),
    "category as truth value": (annotation(category_id=True), "annotation id 11: expected 'category_id' of type int"),
    "no bbox": (without("annotations", "bbox"), "annotation id 11: expected a bbox .* got None"),
    "bbox of three": (annotation(bbox=[1, 2, 3]), "annotation id 11: expected a bbox"),
    "bbox of text": (annotation(bbox=["1", 2, 3, 4]), "annotation id 11: expected a bbox"),
    "bbox not finite": (annotation(bbox=[1, 2, float("nan"), 4]), "annotation id 11: expected a bbox"),
    "bbox beyond floats": (annotation(bbox=[1, 2, 10**400, 4]), "annotation id 11: expected a bbox .* got .1, 2, 100"),
    "bbox that overflows": (annotation(bbox=[1e308, 2, 1e308, 4]), "annotation id 11: expected a bbox"),
    "bbox of negative size": (annotation(bbox=[9, 9, -3, 4]), "annotation id 11: expected a bbox"),
    "odd crowd": (annotation(iscrowd="yes"), "annotation id 11: expected iscrowd"),
    "odd ignore": (annotation(ignore=2), "annotation id 11: expected ignore 0 or 1, got 2"),
    "no annotation id": (
        lambda c: (c["annotations"][1].pop("id"), c["annotations"][1].update(bbox=[])),
        "annotation number 1: expected a bbox",
    ),
    "annotation id of text": (annotation(id="x7", bbox=[]), "annotation id 'x7': expected a bbox"),
    "annotation id of a list": (annotation(id=[7], bbox=[]), "annotation number 1: expected a bbox"),
    "what to do about an id of text": (
        image(id="4"),
        "got '4'; results carry it: number these entries, and use the numbers as image_id",
    ),
    "odd area": (annotation(area="big"), "annotation id 11: expected a number of at least 0 as area, got 'big'"),
    "area not finite": (annotation(area=float("nan")), "annotation id 11: expected a number .* as area, got nan"),
    "negative area": (annotation(area=-1), "annotation id 11: expected a number of at least 0 as area, got -1"),
    "area beyond floats": (annotation(area=10**400), "annotation id 11: expected a number of at least 0 as area"),
    "rubbish is shortened": (annotation(area=[["x"] * 9] * 9), "annotation id 11: .{,150} as area, got .{,300}$"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_not_coco_is_named(name: str, content: Content, tmp_path: Path) -> None:
    change, message = BROKEN[name]
    change(content)
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=rf"labels\.json: .*{message}"):
        CocoJson.read(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "not a COCO file"),
        ("{'images'", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("[" + "1" * 10_000 + "]", "cannot be read as JSON"),
    ],
)
def test_what_is_no_json_object_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    path.write_text(text)
    with pytest.raises(DataError, match=rf"labels\.json: .*{message}"):
        CocoJson.read(path)


def test_a_missing_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"labels\.json: the annotation file does not exist"):
        CocoJson.read(tmp_path / "labels.json")


def test_every_image_gets_its_own_objects_without_crowds(content: Content, write: Write) -> None:
    table = read_table(write(content))
    assert table.ids.tolist() == [9, 4, 7]
    assert table.sizes.tolist() == [[20, 40], [50, 30], [16, 16]]
    objects = [(boxes.tolist(), labels.tolist()) for boxes, labels in map(table.objects, range(3))]
    assert objects == [([[4, 5, 24, 15]], [1]), ([[3, 10, 15, 30], [1, 1, 7, 7]], [0, 1]), ([], [])]


@pytest.mark.parametrize(
    ("bbox", "expected"),
    [
        ([-5, 10, 20, 50], [[0, 10, 15, 20]]),  # beyond left and bottom
        ([30, -4, 100, 10], [[30, 0, 40, 6]]),  # beyond right and top
        ([4, 5, 0, 10], []),
        ([4, 5, 10, 0], []),
        ([40, 5, 10, 10], []),  # wholly outside
    ],
)
def test_boxes_are_clipped_and_empty_ones_dropped(
    bbox: list[float], expected: list[list[float]], content: Content, write: Write
) -> None:
    content["annotations"][1]["bbox"] = bbox
    table = read_table(write(content))
    assert table.objects(0)[0].tolist() == expected
    assert table.objects(1)[0].tolist() == [[3, 10, 15, 30], [1, 1, 7, 7]]
    assert table.objects(1)[1].tolist() == [0, 1]


@pytest.mark.parametrize("flag", ["iscrowd", "ignore"])
def test_a_flag_that_is_null_is_not_set(flag: str, content: Content, write: Write) -> None:
    expected = read_table(write(content))
    content["annotations"][1][flag] = None
    assert read_table(write(content)).boxes.tolist() == expected.boxes.tolist()


@pytest.mark.parametrize("ids", [[None] * 4, ["a", "b", "a", ""], [1.5, [], {}, True]])
def test_annotation_ids_are_never_used(ids: list[Any], content: Content, write: Write) -> None:
    expected = read_table(write(content))
    for entry, entry_id in zip(content["annotations"], ids, strict=True):
        entry["id"] = entry_id
        if entry_id is None:
            del entry["id"]
    files = write(content)
    assert read_table(files).boxes.tolist() == expected.boxes.tolist()
    truth = coco_ground_truth(files.annotations, Categories(("cat", "dog"), (5, 90)))
    assert [entry["id"] for entry in truth.dataset["annotations"]] == [1, 2, 3, 4]


@pytest.mark.parametrize("mark", [1, True])
def test_an_ignored_object_is_neither_learned_nor_missed(mark: Any, content: Content, write: Write) -> None:
    """mmdetection's flag, which pycocotools overwrites: then it would count as missed."""
    content["annotations"][1]["ignore"] = mark
    files = write(content)
    assert read_table(files).objects(0)[0].tolist() == []
    categories = Categories(("cat", "dog"), (5, 90))
    truth = coco_ground_truth(files.annotations, categories)
    others = [(4, 5, (3, 10, 12, 20), 0.9), (4, 90, (1, 1, 6, 6), 0.9)]
    both = [*others, (9, 90, (4, 5, 20, 10), 0.95)]
    for found in (others, both):
        scores = coco_scores(truth, np.array(found, DETECTION), categories)
        assert scores.ap == pytest.approx(1)
        assert [score.num_objects for score in scores.classes] == [1, 1]


def test_a_set_without_any_object_is_a_set(content: Content, write: Write) -> None:
    table = read_table(write(content | {"annotations": []}))
    assert len(table) == 3
    assert table.objects(2)[0].shape == (0, 4)
    assert table.objects(2)[0].dtype == np.float32


def test_missing_image_files_are_counted_and_named(content: Content, write: Write) -> None:
    files = write(content)
    for name in ("sub/b.png", "c.png"):
        (files.images / name).unlink()
    with pytest.raises(DataError, match=r"2 of its 3 images are not in .*first is .*b\.png"):
        CocoJson.read(files.annotations).check_files(files.images)


@pytest.mark.parametrize("name", ["", ".", "sub", "a.png/b.png", "x" * 300 + "/a.png", "a\0.png/a.png", "\ud800/a.png"])
def test_what_can_be_no_image_file_is_missing(name: str, content: Content, write: Write) -> None:
    files = write(content)
    content["images"][0]["file_name"] = name
    files.annotations.write_text(json.dumps(content))
    with pytest.raises(DataError, match="1 of its 3 images are not in"):
        CocoJson.read(files.annotations).check_files(files.images)
