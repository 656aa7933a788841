"""What is exported: from 8-bit images to detections, and the range of sizes that it is exported for."""

from __future__ import annotations

from itertools import count
from math import prod

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from litedetr.models import Detector, DetectorConfig, fold_frozen_norms, level_shapes
from litedetr.pixels import IMAGENET_MEAN, IMAGENET_STD
from litedetr.postprocess import best_pairs
from litedetr.structures import ImageBatch, Predictions

INPUT = "images"
OUTPUTS = {True: ("scores", "labels", "boxes", "tokens"), False: ("class_logits", "boxes", "tokens")}


class DeployedDetector(nn.Module):
    """A detector from pixels to detections, or, without `postprocess`, to predictions.

    `detector` is changed: it loses what only training needs, and its frozen norms go into their convolutions.
    """

    def __init__(self, detector: Detector, postprocess: bool = True) -> None:
        super().__init__()
        self.detector = detector
        self.detector.denoising = None  # for training only
        fold_frozen_norms(self.detector)
        self.postprocess = postprocess
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1))
        self.eval().requires_grad_(False)

    @property
    def output_names(self) -> tuple[str, ...]:
        return OUTPUTS[self.postprocess]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Detect objects; scaling and normalisation happen inside.

        images: (B, 3, H, W) uint8 RGB, all of one size.
        Returns scores (B, N), best first, labels (B, N) int64, boxes (B, N, 4) xyxy in pixels of `images`, with
        N = min(300, Q * K), and tokens (B, Q) int64: the cell of the feature pyramid that each query began at, best
        first. Without `postprocess`: class_logits (B, Q, K), boxes (B, Q, 4) cxcywh relative to the image, and tokens.
        """
        predictions, tokens = self.predict(images)
        if not self.postprocess:
            return predictions.class_logits, predictions.boxes, tokens
        scores, labels, boxes = best_pairs(predictions)
        height, width = images.shape[-2:]
        x1, y1, x2, y2 = boxes.unbind(-1)
        return scores, labels, torch.stack([x1 * width, y1 * height, x2 * width, y2 * height], dim=-1), tokens

    def predict(self, images: Tensor) -> tuple[Predictions, Tensor]:
        """The detector's predictions, and its queries' tokens."""
        pixels = images.float().div(255).sub(self.mean).div(self.std)
        batch, _, height, width = images.shape
        sizes = [images.new_full((batch,), side, dtype=torch.long) for side in (height, width)]
        chosen: list[Tensor] = []
        with self.detector.query_selection.best.register_forward_hook(lambda _, __, best: chosen.append(best[0])):
            output = self.detector(ImageBatch(pixels, torch.stack(sizes, dim=1), padded=False))
        return output.predictions, chosen[0]


def smallest_side(config: DetectorConfig) -> int:
    """Images with both sides at least so long, in pixels, have a token for every query, and levels of 2 x 2 cells.

    Below it the number of queries would depend on the size, and a level one cell high or wide would be broadcast:
    other graphs, which would have to be exported on their own.
    """

    def fits(side: int) -> bool:
        shapes = level_shapes(config.neck.num_levels, (side, side))
        num_tokens = sum(prod(shape) for shape in shapes[-config.num_memory_levels :])
        return num_tokens >= config.query_selection.num_queries and min(shapes[-1]) >= 2

    return next(side for side in count(1) if fits(side))


def trace(graph: DeployedDetector, image_size: tuple[int, int]) -> ExportedProgram:
    """The graph for any number of images of any size from `smallest_side` up.

    image_size: (height, width) to trace at; two images, as torch.export takes sizes of 1 for constants.
    """
    least = smallest_side(graph.detector.config)
    axes = {0: Dim("batch", min=1), 2: Dim("height", min=least), 3: Dim("width", min=least)}
    example = torch.zeros(2, 3, *image_size, dtype=torch.uint8, device=graph.mean.device)
    with torch.no_grad():
        return torch.export.export(graph, (example,), dynamic_shapes={INPUT: axes}, strict=False)
