"""The embedded data set: drawn once into a cache folder, as images and COCO JSON, then read like any COCO set."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from litedetr.data.data_config import ShapesConfig
from litedetr.data.draw_shapes import SHAPES, Scene, draw_scene
from litedetr.paths import user_path
from litedetr.settings import ConfigError

_DRAWING_VERSION = 4  # raise it whenever other pixels or annotations come out of the same settings
_CATEGORY_IDS = (3, 7, 12, 20, 41)  # with gaps, as many real sets have them
_log = logging.getLogger(__name__)


def shapes_root(config: ShapesConfig) -> Path:
    """The folder with the set, drawn now if it is not there yet; it holds {train,val}/ and annotations/.

    A new set is drawn in a folder of its own and then renamed, so no process ever sees half of one, and of several
    that draw at once the first wins.
    """
    cache = user_path(config.cache)
    root = cache / f"shapes-{_fingerprint(config)}"
    if root.is_dir():
        return root
    _log.info("drawing the shapes data set into %s", root)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _draw(cache, root, config)
    except OSError as error:
        room = "with room for the data set " if error.errno == errno.ENOSPC else ""
        expected = f"expected a folder {room}to write to"
        raise ConfigError(f"data.shapes.cache: {expected}, got {config.cache!r}: {error}") from error
    return root


def _draw(cache: Path, root: Path, config: ShapesConfig) -> None:
    draft = Path(tempfile.mkdtemp(prefix=".shapes-", dir=cache))
    try:
        _write_split(draft, "train", 0, config.num_train, config)
        _write_split(draft, "val", 1, config.num_val, config)
        _publish(draft, root)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _publish(draft: Path, root: Path) -> None:
    try:
        draft.rename(root)
    except OSError:
        if not root.is_dir():  # if it is there, another process was faster
            raise


def _fingerprint(config: ShapesConfig) -> str:
    settings = {name: value for name, value in dataclasses.asdict(config).items() if name != "cache"}
    key = json.dumps([_DRAWING_VERSION, settings], sort_keys=True)
    return hashlib.sha256(key.encode()).hexdigest()[:12]


def _write_split(root: Path, split: str, stream: int, num_images: int, config: ShapesConfig) -> None:
    """Image i of a split depends on (seed, split, i) only, so a larger set begins with the smaller one."""
    folder = root / split
    folder.mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id in range(1, num_images + 1):
        sequence = np.random.SeedSequence(config.seed, spawn_key=(stream, image_id))
        scene = draw_scene(np.random.default_rng(sequence), (config.min_side, config.max_side), config.max_objects)
        file_name = f"{image_id:06d}.jpg"
        scene.image.save(folder / file_name, quality=92)
        width, height = scene.image.size
        images.append({"id": image_id, "file_name": file_name, "width": width, "height": height})
        annotations += _annotations(scene, image_id, first_id=len(annotations) + 1)
    pairs = zip(SHAPES, _CATEGORY_IDS, strict=True)
    categories = [{"id": category_id, "name": name, "supercategory": "shape"} for name, category_id in pairs]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content), encoding="utf-8")


def _annotations(scene: Scene, image_id: int, first_id: int) -> list[dict[str, Any]]:
    """`area` is the box's, as in sets without masks: so every class has small, medium and large objects."""
    category_of = dict(zip(SHAPES, _CATEGORY_IDS, strict=True))
    return [
        {
            "id": first_id + number,
            "image_id": image_id,
            "category_id": category_of[shape],
            "bbox": [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)],
            "area": round((x2 - x1) * (y2 - y1), 2),
            "iscrowd": 0,
        }
        for number, (shape, (x1, y1, x2, y2)) in enumerate(zip(scene.shapes, scene.boxes.tolist(), strict=True))
    ]
