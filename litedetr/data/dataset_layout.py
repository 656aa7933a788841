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
from litedetr.settings import ConfigError

Split = Literal["train", "val"]


@dataclass(frozen=True)
class SplitFiles:
    """A split's image folder and its COCO JSON."""

    images: Path
    annotations: Path


def find_split(config: DataConfig, split: Split) -> SplitFiles:
    """The files of a coco set's split: the explicit ones, or the first layout that is there; else ConfigError."""
    root = None if config.root is None else user_path(config.root)
    if root is not None and not root.is_dir():
        raise ConfigError(f"data.root: expected an existing folder, got {config.root!r}")
    images, annotations = config.explicit_paths(split)
    if images is not None and annotations is not None:
        return _explicit(split, root or Path(), images, annotations)
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


def _explicit(split: Split, root: Path, images: str, annotations: str) -> SplitFiles:
    files = SplitFiles(root / user_path(images), root / user_path(annotations))
    if not files.images.is_dir():
        raise ConfigError(f"data.{split}_images: expected an existing folder, got {str(files.images)!r}")
    if not files.annotations.is_file():
        raise ConfigError(f"data.{split}_annotations: expected an existing JSON file, got {str(files.annotations)!r}")
    return files
