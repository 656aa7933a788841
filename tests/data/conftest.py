"""A COCO-format split in a temporary folder, to be bent by the tests."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from litedetr.data import CocoDetection, TransformConfig
from litedetr.data.dataset_layout import SplitFiles

NATIVE = TransformConfig(train_sides=(), max_side=1333, eval_side=None, flip=0.5, crop=False)


def coco_content() -> dict[str, Any]:
    """Three images (the last without objects), two categories with a gap, a crowd; image ids not in order."""
    return {
        "images": [
            {"id": 9, "file_name": "a.png", "width": 40, "height": 20},
            {"id": 4, "file_name": "sub/b.png", "width": 30, "height": 50},
            {"id": 7, "file_name": "c.png", "width": 16, "height": 16},
        ],
        "annotations": [
            {"id": 0, "image_id": 4, "category_id": 5, "bbox": [3, 10, 12, 20], "area": 200, "iscrowd": 0},
            {"id": 11, "image_id": 9, "category_id": 90, "bbox": [4, 5, 20, 10], "area": 200, "iscrowd": 0},
            {"id": 12, "image_id": 4, "category_id": 90, "bbox": [1, 1, 6, 6], "area": 30, "iscrowd": 0},
            {"id": 13, "image_id": 4, "category_id": 5, "bbox": [0, 0, 30, 50], "area": 900, "iscrowd": 1},
        ],
        "categories": [{"id": 90, "name": "dog"}, {"id": 5, "name": "cat"}],
    }


def write_images(folder: Path, content: dict[str, Any]) -> None:
    for image in content["images"]:
        path = folder / image["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (image["width"], image["height"]), (200, 30, 60)).save(path)


def write_split(root: Path, content: dict[str, Any], split: str = "train") -> SplitFiles:
    """`content` with an image for each entry, in the layout {split}/, annotations/instances_{split}.json."""
    files = SplitFiles(root / split, root / "annotations" / f"instances_{split}.json")
    files.annotations.parent.mkdir(parents=True, exist_ok=True)
    files.annotations.write_text(json.dumps(content))
    write_images(files.images, content)
    return files


@pytest.fixture
def content() -> dict[str, Any]:
    return coco_content()


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., SplitFiles]:
    return lambda content, split="train": write_split(tmp_path, content, split)


@pytest.fixture
def native() -> TransformConfig:
    return NATIVE


@pytest.fixture
def one_image(tmp_path: Path) -> Callable[..., CocoDetection]:
    """A data set of one image: `save` writes it, `size` (width, height) is what the JSON says."""

    def build(save: Callable[[Path], None], size: tuple[int, int], file_name: str = "one.png") -> CocoDetection:
        content = coco_content() | {"annotations": []}
        content["images"] = [{"id": 17, "file_name": file_name, "width": size[0], "height": size[1]}]
        files = SplitFiles(tmp_path, tmp_path / "one.json")
        files.annotations.write_text(json.dumps(content))
        save(tmp_path / file_name)
        return CocoDetection(files, NATIVE, training=False)

    return build
