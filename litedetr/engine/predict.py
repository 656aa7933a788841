"""Detections of image files: batch by batch, with pictures and one JSON in COCO's form."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from litedetr.config import require, typed
from litedetr.data import Categories, DataError, ImageFiles, find_images, read_image, read_size, require_workers
from litedetr.engine.checkpoint import checkpoint_file
from litedetr.engine.config import Device, Precision
from litedetr.engine.drawing import draw_boxes, labelled
from litedetr.engine.loader import Loader
from litedetr.engine.predictor import Predictor, check_limits
from litedetr.paths import user_path
from litedetr.structures import Detections

LOSSLESS_OR_JPEG = (".png", ".jpg", ".jpeg")  # suffixes that a picture keeps
JPEG_LIMIT = 65500  # pixels of a side


@dataclass(frozen=True)
@typed
class PredictConfig:
    """The settings of conf/predict.yaml, where they are described."""

    checkpoint: str
    source: str
    output: str | None = None
    threshold: float = 0.3
    max_detections: int = 100
    pictures: bool = True
    batch_size: int = 8
    num_workers: int = 0
    device: Device = "auto"
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        check_limits(self.threshold, self.max_detections, self.batch_size)
        require_workers("num_workers", self.num_workers)

    @property
    def folder(self) -> Path:
        """Where results go: beside the checkpoint unless `output` says otherwise."""
        return user_path(self.output) if self.output else checkpoint_file(self.checkpoint).parent / "predictions"


@dataclass(frozen=True)
class Prediction:
    """What was found in an image file; `image` is upright RGB, in whose pixels the boxes are."""

    path: Path
    image: Image.Image
    detections: Detections


@dataclass(frozen=True)
class Unreadable:
    """A file that is no image, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Prepared:
    """An image file as read, and as the detector takes it."""

    path: Path
    image: Image.Image
    pixels: Tensor


class FileDataset(Dataset[Prepared | Unreadable]):
    """Image files as the detector of `predictor` takes them."""

    def __init__(self, paths: Sequence[Path], predictor: Predictor) -> None:
        self.paths, self.prepare = paths, predictor.preparation

    def __getitem__(self, index: int) -> Prepared | Unreadable:
        path = self.paths[index]
        try:
            image = read_image(path)
        except DataError as error:
            return Unreadable(path, str(error))
        return Prepared(path, image, self.prepare(image))


def predict_files(predictor: Predictor, files: ImageFiles, config: PredictConfig) -> Iterator[Prediction | Unreadable]:
    """One for each file, batch by batch: images that are resized to the same size go together."""
    sizes: dict[Path, tuple[int, int]] = {}
    for path in files.paths:
        try:
            sizes[path] = read_size(path)
        except DataError as error:
            yield Unreadable(path, str(error))
    paths = list(sizes)
    batches = predictor.batches([sizes[path] for path in paths], config.batch_size)
    with Loader(FileDataset(paths, predictor), batches, config.num_workers, list) as loader:
        for batch in loader:
            yield from (item for item in batch if isinstance(item, Unreadable))
            yield from _predict_batch(predictor, [item for item in batch if isinstance(item, Prepared)], config)


def _predict_batch(predictor: Predictor, batch: list[Prepared], config: PredictConfig) -> Iterator[Prediction]:
    if not batch:
        return
    found = predictor.detect([item.pixels for item in batch], [item.image.size[::-1] for item in batch])
    for item, detections in zip(batch, found, strict=True):
        kept = detections.above(config.threshold).best(config.max_detections)
        yield Prediction(item.path, item.image, kept)


class PredictionWriter:
    """Writes pictures as they come, and at the end predictions.json: a data set in COCO's form whose annotations have
    a score, fit to be looked at, corrected or trained on.
    """

    def __init__(self, folder: Path, files: ImageFiles, categories: Categories, pictures: bool) -> None:
        same = folder.resolve() == files.folder.resolve()
        require(not same, "output", "another folder than the images', which would be overwritten", str(folder))
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.files, self.categories, self.pictures = folder, files, categories, pictures
        self.counts: Counter[str] = Counter()
        self._ids = {path: number for number, path in enumerate(files.paths, start=1)}
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    @property
    def json(self) -> Path:
        return self.folder / "predictions.json"

    def add(self, prediction: Prediction) -> None:
        name, size = self.files.name(prediction.path), prediction.image.size
        image_id = self._ids[prediction.path]
        self._images.append({"id": image_id, "file_name": name, "width": size[0], "height": size[1]})
        self._annotations += self._entries(image_id, prediction.detections)
        self.counts.update(self.categories.names[label] for label in prediction.detections.labels.tolist())
        if self.pictures:
            picture = draw_boxes(prediction.image, labelled(prediction.detections, self.categories))
            target = self.folder / _picture_name(name, picture.size)
            target.parent.mkdir(parents=True, exist_ok=True)
            picture.save(target, quality=92)

    def close(self) -> None:
        order = sorted(self._annotations, key=lambda entry: entry["image_id"])
        content = {
            "images": sorted(self._images, key=lambda entry: entry["id"]),
            "annotations": [{"id": number} | entry for number, entry in enumerate(order, start=1)],
            "categories": [
                {"id": category_id, "name": name}
                for name, category_id in zip(self.categories.names, self.categories.ids, strict=True)
            ],
        }
        self.json.write_text(json.dumps(content), encoding="utf-8")

    def _entries(self, image_id: int, detections: Detections) -> list[dict[str, Any]]:
        found = zip(detections.boxes.tolist(), detections.labels.tolist(), detections.scores.tolist(), strict=True)
        return [
            {
                "image_id": image_id,
                "category_id": self.categories.ids[label],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": 0,
                "score": score,
            }
            for (x1, y1, x2, y2), label, score in found
        ]


def _picture_name(name: str, size: tuple[int, int]) -> str:
    """As the image's, but a PNG where its format would lose colours or is too short for it: `scan.tif.png`."""
    kept = name.lower().endswith(LOSSLESS_OR_JPEG) and max(size) <= JPEG_LIMIT
    return name if kept else f"{name}.png"


def open_prediction(config: PredictConfig) -> tuple[Predictor, ImageFiles, PredictionWriter]:
    """Everything that can be wrong with the settings is found here, before any image is worked on."""
    files = find_images(config.source)
    predictor = Predictor.load(config.checkpoint, config.device, config.precision)
    return predictor, files, PredictionWriter(config.folder, files, predictor.categories, config.pictures)
