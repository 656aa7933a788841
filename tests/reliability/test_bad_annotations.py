"""COCO files of any content: the objects that they name, or one clear error."""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import TypeVar

import numpy as np
import pytest
from bent_coco import SIZES, any_json, broken_files, legal_files
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from plain_coco import PlainCoco

from litedetr.boxes import cxcywh_to_xyxy
from litedetr.data import CocoDetection, DataError, TransformConfig
from litedetr.data.dataset_layout import SplitFiles
from litedetr.engine.coco_metrics import DETECTION, coco_scores
from litedetr.settings import ConfigError

T = TypeVar("T")
NATIVE = TransformConfig(train_sides=(), max_side=1333, eval_side=None, flip=0.5, crop=False)
TIMES = {"legal": 200, "broken": 500, "any": 100}


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> SplitFiles:
    folder = tmp_path_factory.mktemp("split")
    (folder / "sub").mkdir()
    for name, size in SIZES.items():
        Image.new("RGB", size, (200, 30, 60)).save(folder / name)
    return SplitFiles(folder, folder / "labels.json")


class Outcomes(Counter):
    """How many files were accepted and how many refused: `check` ends in one of both, or fails."""

    def check(self, data: bytes, split: SplitFiles) -> bool:
        split.annotations.write_bytes(data)
        dataset, error = attempt(lambda: CocoDetection(split, NATIVE, training=False))
        if dataset is None:
            assert str(split.annotations) in error
            assert len(error) < 6000
            self["refused"] += 1
            return False
        plain = PlainCoco.read(data)
        self["items refused"] += sum(not check_item(dataset, plain, index) for index in range(len(plain.images)))
        check_truth(dataset, plain)
        check_scores(dataset, plain)
        self["accepted"] += 1
        return True


def attempt(work: Callable[[], T]) -> tuple[T | None, str]:
    """The result, or None and an error of ours; any other error goes on."""
    try:
        return work(), ""
    except (DataError, ConfigError) as error:
        return None, str(error)


def check_item(dataset: CocoDetection, plain: PlainCoco, index: int) -> bool:
    """The objects of the image at `index`; a DataError where the image is not as the file says."""
    image = plain.images[index]
    sample, error = attempt(lambda: dataset[index])
    if sample is None:
        assert f"image id {image['id']} of {dataset.annotations_path}" in error
        path = dataset.image_path(image["id"])
        assert path.suffix != ".png" or Image.open(path).size != (image["width"], image["height"])
        return False
    target, expected = sample.target, plain.objects(image)
    assert (target.image_id, target.original_size) == (image["id"], (image["height"], image["width"]))
    assert target.labels.tolist() == [label for label, _ in expected]
    corners = cxcywh_to_xyxy(target.boxes).double().numpy()
    sides = np.array([image["width"], image["height"]] * 2)
    assert np.isfinite(corners).all()
    assert np.allclose(corners * sides, np.reshape([box for _, box in expected], (-1, 4)), rtol=0, atol=1e-4)
    assert ((corners > -1e-6) & (corners < 1 + 1e-6)).all()
    return True


def check_truth(dataset: CocoDetection, plain: PlainCoco) -> None:
    assert dataset.image_ids == [image["id"] for image in plain.images]
    assert dataset.categories.ids == tuple(sorted(category["id"] for category in plain.categories))
    assert len(set(dataset.categories.names)) == len(plain.categories)
    found = dataset.coco_ground_truth().dataset["annotations"]
    names = ("image_id", "category_id", "bbox", "area", "iscrowd")
    assert [tuple(entry[name] for name in names) for entry in found] == plain.truth()
    assert [entry["id"] for entry in found] == list(range(1, len(found) + 1))
    assert all(math.isfinite(number) for entry in found for number in (*entry["bbox"], entry["area"]))


def check_scores(dataset: CocoDetection, plain: PlainCoco) -> None:
    """Detections on the truth itself."""
    rows = [(image, category, tuple(box), 0.9) for image, category, box, _, crowd in plain.truth() if not crowd]
    with redirect_stdout(io.StringIO()):
        scores = coco_scores(dataset.coco_ground_truth(), np.array(rows, DETECTION), dataset.categories)
    number_of = Counter(category for _, category, _, _ in rows)
    assert [score.num_objects for score in scores.classes] == [number_of[i] for i in dataset.categories.ids]
    assert len(scores.to_mapping()["classes"]) == len(plain.categories)
    assert all(math.isnan(value) or 0 <= value <= 1 for value in scores.summary.values())
    assert not plain.is_scored_perfectly() or scores.ap == pytest.approx(1)


def outcomes(kind: str, files: st.SearchStrategy[bytes], split: SplitFiles, number: int) -> Outcomes:
    """`number` files, checked."""
    found = Outcomes()

    @settings(max_examples=number)
    @given(files)
    def check(data: bytes) -> None:
        accepted = found.check(data, split)
        assert accepted or kind != "legal"

    check()
    print(f"\n{kind} COCO files: {found['accepted']} accepted, {found['refused']} refused, ", end="")
    print(f"of the accepted ones' images {found['items refused']} refused")
    return found


def check_all(split: SplitFiles, factor: int) -> None:
    folder = str(split.images)
    legal = outcomes("legal", legal_files(folder), split, factor * TIMES["legal"])
    broken = outcomes("broken", broken_files(folder), split, factor * TIMES["broken"])
    outcomes("any", any_json(), split, factor * TIMES["any"])
    assert legal["refused"] == 0
    assert min(broken["accepted"], broken["refused"]) > 0.1 * broken.total()


def test_a_file_of_any_content_gives_its_objects_or_one_clear_error(split: SplitFiles) -> None:
    check_all(split, 1)


@pytest.mark.slow
def test_many_more_files(split: SplitFiles) -> None:
    check_all(split, 10)
