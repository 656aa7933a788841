"""A trained detector on images of any kind, from Python: `litedetr.load(checkpoint).predict(images)`."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from litedetr.data import Categories, evaluation_pixels, evaluation_size
from litedetr.engine.checkpoint import LoadedDetector, checkpoint_file, load_detector
from litedetr.engine.detect import Forward, inference_copy
from litedetr.engine.distributed import choose_device
from litedetr.engine.precision import choose_precision
from litedetr.engine.run_config import Device, Precision
from litedetr.inference.cuda_graphs import CudaGraphs, GpuCapture, check_cuda_graphs
from litedetr.inference.image_inputs import ImageLike, as_image_input, as_iterable
from litedetr.models import Detector
from litedetr.postprocess import unpack
from litedetr.settings import Count, Probability, Text, as_type, require
from litedetr.structures import Detections, ImageBatch

LOOK_AHEAD = 4  # batches: of images that are taken as they come, those that wait for others of their size
T = TypeVar("T")


class Predictor:
    """A detector in evaluation mode with its classes and the image size it was trained to be evaluated at.

    loaded: its model is copied, see `inference_copy`.
    device: where it runs: auto, cpu, cuda or cuda:<n>, as text or a torch.device, or the n of a GPU.
    precision: fp32, or bf16 or fp16 by autocast, as text or a dtype.
    cuda_graphs: record what the GPU does for each shape of batch and replay it; for images of few sizes.
    """

    def __init__(
        self,
        loaded: LoadedDetector,
        device: Device | str | int | torch.device = "auto",
        precision: Precision | str | torch.dtype = "fp32",
        cuda_graphs: bool = False,
    ) -> None:
        require(isinstance(loaded, LoadedDetector), "loaded", "what load_detector gives", loaded)
        self.device, self.precision = choose_device(device), choose_precision(precision)
        with_graphs = check_cuda_graphs(cuda_graphs, self.device)
        forward = Forward(inference_copy(loaded.model, self.device, self.precision), self.precision)
        self.forward = CudaGraphs(forward, GpuCapture(self.device)) if with_graphs else forward
        self.categories: Categories = loaded.categories
        self.transforms = loaded.config.data.transforms

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        device: Device | str | int | torch.device = "auto",
        precision: Precision | str | torch.dtype = "fp32",
        cuda_graphs: bool = False,
    ) -> Predictor:
        """checkpoint: a file, or a run folder, whose best.pt is taken. CheckpointError says what is wrong with it,
        ConfigError what is wrong with device, precision or cuda_graphs.
        """
        device, precision = choose_device(device), choose_precision(precision)  # before the file is read
        cuda_graphs = check_cuda_graphs(cuda_graphs, device)
        path = checkpoint_file(as_type(Text, checkpoint, "checkpoint"))
        return cls(load_detector(path), device, precision, cuda_graphs)

    @property
    def model(self) -> Detector:
        """Its own: a checkpoint's weights load into `load_detector(checkpoint).model`, not always into it."""
        return self.forward.model

    @property
    def names(self) -> tuple[str, ...]:
        """Class names; label k of a detection is names[k]."""
        return self.categories.names

    def predict(
        self,
        images: ImageLike | Iterable[ImageLike],
        threshold: float = 0.3,
        max_detections: int = 100,
        batch_size: int = 8,
    ) -> list[Detections]:
        """Detections of each image in their order, best first, on the CPU; boxes are in pixels of the image as given,
        and clipped to it.

        images: one or several, in RGB: PIL images; arrays (H, W, 3) or (H, W) and tensors (3, H, W), (1, H, W) or
        (H, W), in uint8 or as floats in [0, 1]; or image files, which are turned upright by their EXIF orientation:
        paths, bytes, or files opened in binary mode. (OpenCV's arrays are BGR: image[..., ::-1].)
        threshold: least score. max_detections: at most so many an image. batch_size: images at a time; images of
        other sizes wait for the next batch.

        Files are decoded batch by batch. A list, a tuple or a batch is looked through first, so that images of one size
        share batches wherever they stand; of anything else, which may make its images as they are asked for, at most
        LOOK_AHEAD batches wait.
        Raises ValueError if something is no image, ConfigError if an argument cannot work.
        """
        threshold = as_type(Probability, threshold, "threshold")
        max_detections = as_type(Count, max_detections, "max_detections")
        batch_size = as_type(Count, batch_size, "batch_size")
        is_there = isinstance(images, (list, tuple, np.ndarray, Tensor))
        pictures = (as_image_input(image, number) for number, image in enumerate(as_iterable(images)))
        numbered = enumerate(list(pictures) if is_there else pictures)
        most_waiting = math.inf if is_there else LOOK_AHEAD * batch_size
        found: dict[int, Detections] = {}
        for batch in batches_by_key(numbered, lambda pair: self.resized(pair[1].size), batch_size, most_waiting):
            prepared = [evaluation_pixels(picture.read(), self.transforms) for _, picture in batch]
            detections = self.detect(prepared, [picture.size for _, picture in batch])
            for (number, _), one in zip(batch, detections, strict=True):
                found[number] = one.above(threshold).best(max_detections)
        return [found[number] for number in range(len(found))]

    def resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) that an image of (height, width) `size` is resized to."""
        return evaluation_size(size[::-1], self.transforms)

    def detect(self, prepared: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        """All detections of prepared images whose originals have the (height, width) `sizes`, clipped to them, on the
        CPU.
        """
        images = ImageBatch.from_images(prepared).to(self.device)
        found = unpack(self.forward(images), sizes)
        return [one.within(size) for one, size in zip(found, sizes, strict=True)]


def batches_by_key(
    items: Iterable[T], key: Callable[[T], Hashable], number: int, most_waiting: float = math.inf
) -> Iterator[list[T]]:
    """Lists of `number` items of the same key; of fewer at the end, or when `most_waiting` items wait for others."""
    waiting: dict[Hashable, list[T]] = {}
    for item in items:
        group = waiting.setdefault(key(item), [])
        group.append(item)
        if len(group) == number:
            yield waiting.pop(key(item))
        elif sum(map(len, waiting.values())) >= most_waiting:
            yield waiting.pop(next(iter(waiting)))  # that of the item that has waited longest
    yield from waiting.values()
