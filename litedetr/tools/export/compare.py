"""Compare an exported file with PyTorch, on images of sizes that it was not exported at.

Query selection sorts tokens by a score, and a file adds numbers in another order than PyTorch: two tokens whose scores
differ by less than rounding may change places, and then each gets the other's slot with its learned content. That is
no error, but it moves results by more than rounding. So two comparisons are made:

selection   do the file's tokens have, rank by rank, the scores of PyTorch's own choice?
the rest    PyTorch is run with the file's tokens: all outputs must agree.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from litedetr.postprocess import best_pairs
from litedetr.tools.export.deployed_detector import DeployedDetector
from litedetr.tools.export.file_formats import ExportedFunction, ExportError

OTHER = 1.0  # difference of two detections of other labels: beyond every tolerance
MARGIN = 1e-3  # pairs that score less than the last detection, but not by more, may stand in its place


@dataclass(frozen=True)
class Agreement:
    """How far a file is from PyTorch on one batch."""

    shape: tuple[int, ...]  # of the images
    differences: dict[str, float]  # the largest of each output, over max(1, |expected|); boxes relative to the image
    selection: float  # the same of the chosen tokens' scores
    swapped: int  # queries that began at another token
    num_queries: int

    @property
    def worst(self) -> float:
        return max(self.selection, *self.differences.values())

    def __str__(self) -> str:
        found = "  ".join(f"{name} {value:.1e}" for name, value in self.differences.items())
        size = "x".join(map(str, self.shape))
        swapped = f"{self.swapped} of {self.num_queries} queries swapped"
        return f"{size:14} {found}  selection {self.selection:.1e}, {swapped}"


@torch.no_grad()
def compare(graph: DeployedDetector, exported: ExportedFunction, images: Tensor) -> Agreement:
    """The file and PyTorch on images (B, 3, H, W); ExportError if not even shapes and types are the same."""
    own, score = _choice(graph, images)
    *outputs, tokens = (output.to(images.device) for output in exported(images))
    with graph.detector.query_selection.best.register_forward_hook(lambda *_: (tokens, None)):
        _require_alike([*outputs, tokens], [*graph(images)])
        compare_outputs = _detections if graph.postprocess else _predictions
        differences = compare_outputs(graph, images, outputs)
    return Agreement(
        shape=tuple(images.shape),
        differences=differences,
        selection=_selection(tokens, own, score),
        swapped=int((tokens != own).sum()),
        num_queries=tokens.numel(),
    )


def _choice(graph: DeployedDetector, images: Tensor) -> tuple[Tensor, Tensor]:
    """PyTorch's own tokens (B, Q), and the scores (B, S) that they were chosen by."""
    seen: list[Tensor] = []
    best = graph.detector.query_selection.best
    with best.register_forward_hook(lambda _, inputs, output: seen.extend((output[0], inputs[0]))):
        graph.predict(images)
    own, score = seen
    return own, score


def _require_alike(outputs: list[Tensor], expected: list[Tensor]) -> None:
    """ExportError unless shapes and types are the same."""
    found, wanted = ([(tuple(x.shape), x.dtype) for x in tensors] for tensors in (outputs, expected))
    if found != wanted:
        raise ExportError(f"outputs: expected shapes and types {wanted}, the file gives {found}")


def _selection(tokens: Tensor, own: Tensor, score: Tensor) -> float:
    """Of the scores of both choices, rank by rank; infinite if a token was chosen twice."""
    if any(len(image.unique()) < len(image) for image in tokens):
        return float("inf")
    return _difference(score.gather(1, tokens), score.gather(1, own))


def _predictions(graph: DeployedDetector, images: Tensor, outputs: list[Tensor]) -> dict[str, float]:
    predictions, _ = graph.predict(images)
    class_logits, boxes = outputs
    return {
        "class_logits": _difference(class_logits, predictions.class_logits),
        "boxes": _difference(boxes, predictions.boxes),
    }


def _detections(graph: DeployedDetector, images: Tensor, outputs: list[Tensor]) -> dict[str, float]:
    """Scores rank by rank; boxes beside those of the same label and score, as equal scores have no order."""
    scores, labels, boxes = outputs
    predictions, _ = graph.predict(images)
    height, width = images.shape[-2:]
    found = (scores, labels, boxes / boxes.new_tensor([width, height, width, height]))
    expected = best_pairs(predictions, predictions.class_logits[0].numel())
    pairs = zip(zip(*found, strict=True), zip(*expected, strict=True), strict=True)
    return {
        "scores": _difference(scores, expected[0][:, : scores.shape[1]]),
        "boxes": max(_matched(*pair) for pair in pairs),
    }


def _matched(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> float:
    """The largest difference of boxes and scores, each detection beside the one of its label that it fits best.

    found: the N detections of an image. expected: all its (query, class) pairs, best first.
    """
    number = max(len(found[0]), int((expected[0] >= found[0].min() - MARGIN).sum()))
    scores, labels, boxes = (x[:, None] for x in found)
    other_scores, other_labels, other_boxes = (x[None, :number] for x in expected)
    cost = torch.maximum((scores - other_scores).abs(), (boxes - other_boxes).abs().amax(-1))
    cost = cost.masked_fill(labels != other_labels, OTHER).nan_to_num(OTHER).cpu().numpy()
    return float(cost[linear_sum_assignment(cost)].max())


def _difference(found: Tensor, expected: Tensor) -> float:
    """The largest, over max(1, |expected|); infinite if there is a NaN."""
    difference = ((found - expected).abs() / expected.abs().clamp(min=1)).max()
    return float(difference) if difference.isfinite() else float("inf")
