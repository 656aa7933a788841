"""Predict on image files, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from litedetr.data import (
    DataError,
    ImageFiles,
    TransformConfig,
    Workers,
    evaluation_pixels,
    find_images,
    read_image,
    read_size,
)
from litedetr.engine.checkpoint import checkpoint_file
from litedetr.engine.loader import Loader
from litedetr.engine.run_config import Device, GpuSettings, Precision
from litedetr.inference.output_folder import absolute_source, results_folder, without_drawn_pictures
from litedetr.inference.prediction_writer import PredictionWriter
from litedetr.inference.predictor import Predictor, batches_by_key
from litedetr.paths import user_path
from litedetr.settings import Count, Flag, Maybe, Probability, Text, settings
from litedetr.structures import Detections


@settings()
class PredictConfig:
    """The settings of conf/predict.yaml, where they are described."""

    checkpoint: Text
    source: Text
    output: Maybe[Text] = None
    threshold: Probability = 0.3
    max_detections: Count = 100
    pictures: Flag = True
    batch_size: Count = 8
    num_workers: Workers = 0
    device: Device = "auto"
    precision: Precision = "fp32"
    gpu: GpuSettings = field(default_factory=GpuSettings)
    cuda_graphs: Flag = False

    @property
    def folder(self) -> Path:
        """Where results go: beside the checkpoint, a folder for each source, unless `output` says otherwise."""
        if self.output:
            return user_path(self.output)
        return results_folder(checkpoint_file(self.checkpoint).parent / "predictions", self.source)


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
    """Image files by their path, as a detector of these transforms takes them."""

    def __init__(self, transforms: TransformConfig) -> None:
        self.transforms = transforms

    def __getitem__(self, path: Path) -> Prepared | Unreadable:
        try:
            image = read_image(path)
        except DataError as error:
            return Unreadable(path, str(error))
        return Prepared(path, image, evaluation_pixels(image, self.transforms))


def predict_files(predictor: Predictor, files: ImageFiles, config: PredictConfig) -> Iterator[Prediction | Unreadable]:
    """A result for each file, batch by batch: images that are resized to the same size share batches."""
    sizes: dict[Path, tuple[int, int]] = {}
    for path in files.paths:
        try:
            sizes[path] = read_size(path)
        except DataError as error:
            yield Unreadable(path, str(error))
    batches = list(batches_by_key(sizes, lambda path: predictor.resized(sizes[path]), config.batch_size))
    with Loader(FileDataset(predictor.transforms), batches, config.num_workers, list) as loader:
        for batch in loader:
            yield from (item for item in batch if isinstance(item, Unreadable))
            good = [item for item in batch if isinstance(item, Prepared)]
            sizes_of_batch = [item.image.size[::-1] for item in good]
            found = predictor.detect([item.pixels for item in good], sizes_of_batch) if good else []
            for item, detections in zip(good, found, strict=True):
                kept = detections.above(config.threshold).best(config.max_detections)
                yield Prediction(item.path, item.image, kept)


def open_prediction(config: PredictConfig) -> tuple[Predictor, ImageFiles, PredictionWriter]:
    """Everything that can be wrong with the settings is found here, before any image is worked on."""
    files, folder = find_images(config.source), config.folder
    if not user_path(config.source).is_file():
        files = without_drawn_pictures(files, folder)
    predictor = Predictor.load(config.checkpoint, config.device, config.precision, config.cuda_graphs)
    source = absolute_source(config.source)
    return predictor, files, PredictionWriter(folder, files, predictor.categories, config.pictures, source)
