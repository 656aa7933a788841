"""The evaluation loop: a model and a validation set to detections and scores, over all ranks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pycocotools.coco import COCO
from torch import nn

from litedetr.data import Categories, CocoDetection
from litedetr.engine.coco_metrics import DETECTION, Scores, coco_scores, detections_as_json
from litedetr.engine.detect import detect
from litedetr.engine.distributed import Ranks
from litedetr.engine.loader import Loader
from litedetr.engine.run_config import Precision
from litedetr.faults.files import replacing
from litedetr.structures import Detections, Target


@dataclass(frozen=True)
class Evaluation:
    """The scores, the detections they are of (an array of DETECTION) and the ground truth."""

    scores: Scores
    detections: np.ndarray
    ground_truth: COCO


class Evaluator:
    """Evaluates models on `dataset`, of whose images `batches` holds this rank's share."""

    def __init__(self, dataset: CocoDetection, batches: Loader, precision: Precision, ranks: Ranks) -> None:
        self.categories, self.batches, self.precision, self.ranks = dataset.categories, batches, precision, ranks
        self.ground_truth = dataset.coco_ground_truth()

    def __call__(self, model: nn.Module, after_batch: Callable[[], None] = lambda: None) -> Evaluation | None:
        """The evaluation on the main rank, None on the others. Leaves the model in the mode it had.

        after_batch: called after each batch; may raise to leave early.
        """
        training = model.training
        model.eval()
        rows = [np.empty(0, DETECTION)]
        for images, targets in self.batches:
            sizes = [target.original_size for target in targets.items]
            on_device = images.to(self.ranks.device, non_blocking=True)
            found = detect(model, on_device, sizes, self.precision)
            rows += [as_rows(*pair, self.categories) for pair in zip(targets.items, found, strict=True)]
            after_batch()
        model.train(training)
        gathered = self.ranks.gather_to_main(np.concatenate(rows))
        if gathered is None:
            return None
        detections = np.concatenate(gathered)
        scores = coco_scores(self.ground_truth, detections, self.categories)
        return Evaluation(scores, detections, self.ground_truth)


def as_rows(target: Target, detections: Detections, categories: Categories) -> np.ndarray:
    """Detections of one image as a DETECTION array, with the data set's own category ids."""
    rows = np.empty(len(detections), DETECTION)
    x1, y1, x2, y2 = detections.boxes.double().cpu().unbind(1)
    rows["image_id"] = target.image_id
    rows["category_id"] = np.asarray(categories.ids)[detections.labels.cpu().numpy()]
    rows["bbox"] = torch.stack([x1, y1, x2 - x1, y2 - y1], dim=1).numpy()
    rows["score"] = detections.scores.double().cpu().numpy()
    return rows


def write_detections(path: Path, detections: np.ndarray) -> None:
    """COCO's result format, as its evaluation server takes it; an older file stays until this one is whole."""
    with replacing(path) as file:
        file.write(json.dumps(detections_as_json(detections)).encode())


def read_detections(path: Path) -> np.ndarray:
    """A DETECTION array of a file in COCO's result format; ValueError if it is none."""
    try:
        entries = json.loads(path.read_bytes())
        rows = [tuple(tuple(e[name]) if name == "bbox" else e[name] for name in DETECTION.names) for e in entries]
        return np.array(rows, DETECTION)
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        expected = f"a JSON list of objects with {', '.join(DETECTION.names)}, as scripts/eval.py writes it"
        raise ValueError(f"{path}: expected {expected} ({error!r})") from error
