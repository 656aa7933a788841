"""COCO-format sets of images of any size with any number of objects and classes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from litedetr.data import DataConfig, TransformConfig


@dataclass(frozen=True)
class Picture:
    """width, height: in pixels. objects: how many lie in it."""

    width: int
    height: int
    objects: int


def transforms(side: int | None = None, max_side: int = 4000) -> TransformConfig:
    """Images as they are, or their shortest side resized to `side`."""
    return TransformConfig(
        train_sides=() if side is None else (side,), max_side=max_side, eval_side=side, flip=0.5, crop=False
    )


def write_picture(path: Path, picture: Picture, seed: int = 0) -> None:
    """Coarse noise, so that files stay small."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (max(picture.height // 8, 1), max(picture.width // 8, 1), 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((picture.width, picture.height)).save(path)


def write_set(root: Path, pictures: list[Picture], category_ids: list[int], suffix: str = ".png") -> Path:
    """The same images for training and validation."""
    images, annotations = [], []
    for number, picture in enumerate(pictures):
        images.append(
            {"id": number, "file_name": f"{number}{suffix}", "width": picture.width, "height": picture.height}
        )
        annotations += _objects(number, picture, category_ids)
    annotations = [entry | {"id": number} for number, entry in enumerate(annotations)]
    categories = [{"id": category_id, "name": f"class {category_id}"} for category_id in category_ids]
    content = json.dumps({"images": images, "annotations": annotations, "categories": categories})
    (root / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (root / split).mkdir()
        (root / "annotations" / f"instances_{split}.json").write_text(content)
        for number, picture in enumerate(pictures):
            write_picture(root / split / f"{number}{suffix}", picture, number)
    return root


def _objects(number: int, picture: Picture, category_ids: list[int]) -> list[dict]:
    rng = np.random.default_rng(number)
    size = np.array([picture.width, picture.height])
    found = []
    for _ in range(picture.objects):
        sides = rng.uniform(0.05, 0.4, 2) * size
        corner = rng.uniform(0, 1, 2) * (size - sides)
        bbox, category_id = [*corner, *sides], int(rng.choice(category_ids))
        found.append({"image_id": number, "category_id": category_id, "bbox": bbox, "area": sides.prod(), "iscrowd": 0})
    return found


def coco(root: Path, transforms: TransformConfig) -> DataConfig:
    return DataConfig(name="coco", root=str(root), transforms=transforms)
