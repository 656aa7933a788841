"""A trained detector on images of any kind, from Python: `litedetr.load(checkpoint).predict(images)`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from litedetr.config import require
from litedetr.data import Categories, TransformConfig, evaluation_size, normalize
from litedetr.engine.checkpoint import LoadedDetector, checkpoint_file, load_detector
from litedetr.engine.config import Device, Precision
from litedetr.engine.detect import detect
from litedetr.engine.distributed import choose_device
from litedetr.engine.given import Picture, as_pictures
from litedetr.structures import Detections, ImageBatch


@dataclass(frozen=True)
class Preparation:
    """An RGB image -> (3, h, w), resized and normalised as in evaluation."""

    transforms: TransformConfig

    def size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) after the resizing of an image of (width, height) `size`."""
        return evaluation_size(size, self.transforms)

    def __call__(self, image: Image.Image) -> Tensor:
        size = self.size(image.size)
        return normalize(image if size == image.size else image.resize(size, Image.Resampling.BILINEAR))


class Predictor:
    """A detector in evaluation mode with its classes and the image size it was trained to be evaluated at.

    device: where it runs. precision: fp32, or bf16 or fp16 by autocast.
    """

    def __init__(self, loaded: LoadedDetector, device: torch.device, precision: Precision = "fp32") -> None:
        self.model = loaded.model.eval().to(device)
        self.categories: Categories = loaded.categories
        self.preparation = Preparation(loaded.config.data.transforms)
        self.device, self.precision = device, precision

    @classmethod
    def load(cls, checkpoint: str | Path, device: Device = "auto", precision: Precision = "fp32") -> Predictor:
        """checkpoint: a file, or a run folder, whose best.pt is taken. CheckpointError says what is wrong with it."""
        return cls(load_detector(checkpoint_file(checkpoint)), choose_device(device), precision)

    @property
    def names(self) -> tuple[str, ...]:
        """Class names; label k of a detection is names[k]."""
        return self.categories.names

    def predict(
        self,
        images: Picture | Sequence[Picture],
        threshold: float = 0.3,
        max_detections: int = 100,
        batch_size: int = 8,
    ) -> list[Detections]:
        """Detections of each image, best first, on the CPU, in pixels of the image as given.

        images: one or several, in RGB: PIL images; arrays (H, W, 3) or (H, W) and tensors (3, H, W), (1, H, W) or
        (H, W), in uint8 or as floats in [0, 1]; or paths, which are turned upright by their EXIF orientation.
        (OpenCV's arrays are BGR: image[..., ::-1].)
        threshold: least score. max_detections: at most so many an image. batch_size: images at a time; images of
        other sizes wait for the next batch. Raises ValueError where something is no image.
        """
        check_limits(threshold, max_detections, batch_size)
        pictures = as_pictures(images)
        found: list[Detections | None] = [None] * len(pictures)
        for batch in self.batches([picture.size[::-1] for picture in pictures], batch_size):
            sizes = [pictures[index].size[::-1] for index in batch]
            detections = self.detect([self.preparation(pictures[index]) for index in batch], sizes)
            for index, one in zip(batch, detections, strict=True):
                found[index] = one.above(threshold).best(max_detections)
        return found

    def batches(self, sizes: Sequence[tuple[int, int]], batch_size: int) -> list[list[int]]:
        """Indices of images of (height, width) `sizes`, batched where they are resized to the same size."""
        groups: dict[tuple[int, int], list[list[int]]] = defaultdict(list)
        for index, (height, width) in enumerate(sizes):
            group = groups[self.preparation.size((width, height))]
            if not group or len(group[-1]) == batch_size:
                group.append([])
            group[-1].append(index)
        return sorted(batch for group in groups.values() for batch in group)

    def detect(self, prepared: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        """All detections of prepared images whose originals have the (height, width) `sizes`, on the CPU."""
        images = ImageBatch.from_images(prepared).to(self.device)
        return [found.to("cpu") for found in detect(self.model, images, sizes, self.precision)]


def check_limits(threshold: float, max_detections: int, batch_size: int) -> None:
    """ConfigError unless all three can work."""
    require(0 <= threshold <= 1, "threshold", "a score in [0, 1]", threshold)
    require(max_detections >= 1, "max_detections", "at least 1", max_detections)
    require(batch_size >= 1, "batch_size", "at least 1", batch_size)
