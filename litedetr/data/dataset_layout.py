"""Where a COCO-format data set keeps its images and annotations.

Tried in this order for the split "train" (and likewise "val"), under `data.root`:

    train2017/            annotations/instances_train2017.json
    images/train2017/     annotations/instances_train2017.json
    train/                annotations/instances_train.json
    images/train/         annotations/instances_train.json
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from litedetr.data.data_config import DataConfig
from litedetr.paths import user_path
from litedetr.settings import ConfigError, require

Split = Literal["train", "val"]


@dataclass(frozen=True)
class SplitFiles:
    """A split's image folder and its COCO JSON."""

    images: Path
    annotations: Path


def find_split(config: DataConfig, split: Split) -> SplitFiles:
    """The files of a coco set's split: the explicit ones, or the first layout that is there; else ConfigError."""
    root = None if config.root is None else user_path(config.root)
    require(root is None or root.is_dir(), "data.root", "an existing folder", config.root)
    images, annotations = config.explicit_paths(split)
    if images is not None and annotations is not None:
        folder = root or Path()
        files = SplitFiles(folder / user_path(images), folder / user_path(annotations))
        require(files.images.is_dir(), f"data.{split}_images", "an existing folder", str(files.images))
        is_there = files.annotations.is_file()
        require(is_there, f"data.{split}_annotations", "an existing JSON file", str(files.annotations))
        return files
    if root is None:
        raise ConfigError(f"data.root: expected a folder, or data.{split}_images and data.{split}_annotations")
    return find_in_layouts(root, split)


def find_in_layouts(root: Path, split: Split) -> SplitFiles:
    """The first layout whose folder and JSON both exist under `root`; ConfigError lists what was looked for."""
    candidates = [
        SplitFiles(root / folder / f"{split}{year}", root / "annotations" / f"instances_{split}{year}.json")
        for year in ("2017", "")
        for folder in ("", "images")
    ]
    for files in candidates:
        if files.images.is_dir() and files.annotations.is_file():
            return files
    looked_for = "".join(f"\n  {files.images} with {files.annotations}" for files in candidates)
    raise ConfigError(
        f"data.root: no known layout has the {split} split; looked for{looked_for}\n"
        f"or set data.{split}_images and data.{split}_annotations"
    )
