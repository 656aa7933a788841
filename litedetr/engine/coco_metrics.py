"""COCO's scores of detections, by pycocotools, as values and as text."""

from __future__ import annotations

import contextlib
import io
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from litedetr.data import Categories, indexed_coco

# One detection: raw ids, box as (x, y, width, height) in pixels of the original image.
DETECTION = np.dtype([("image_id", "i8"), ("category_id", "i8"), ("bbox", "f8", 4), ("score", "f8")])

PRECISIONS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
RECALLS = ("AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large")
SUMMARY = PRECISIONS + RECALLS
HEADING = "COCO box scores, 0 to 1 (what they are: docs/results.md#ap-and-ar)"


@dataclass(frozen=True)
class ClassScore:
    """The scores of one class."""

    name: str
    ap: float  # in [0, 1], NaN if the set has no object of the class
    ap50: float
    num_objects: int


@dataclass(frozen=True)
class Scores:
    """COCO's scores of a set of detections."""

    summary: dict[str, float]  # the twelve numbers by the names of SUMMARY, NaN if no object counts
    classes: tuple[ClassScore, ...]  # in label order

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Scores:
        """The inverse of `to_mapping`; what else is there, as in results.json, is ignored."""
        entries = mapping["classes"].items()
        return cls(
            {name: _number(mapping[name]) for name in SUMMARY},
            tuple(ClassScore(name, _number(e["AP"]), _number(e["AP50"]), e["objects"]) for name, e in entries),
        )

    @property
    def ap(self) -> float:
        return self.summary["AP"]

    def to_mapping(self) -> dict[str, object]:
        """For JSON: an undefined score is None."""
        entries = ({"AP": score.ap, "AP50": score.ap50, "objects": score.num_objects} for score in self.classes)
        classes = {score.name: json_numbers(entry) for score, entry in zip(self.classes, entries, strict=True)}
        return json_numbers(self.summary) | {"classes": classes}


def json_numbers(numbers: dict[str, float]) -> dict[str, float | None]:
    """JSON has no NaN: it becomes None."""
    return {name: None if math.isnan(value) else value for name, value in numbers.items()}


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def coco_scores(ground_truth: COCO, detections: np.ndarray, categories: Categories) -> Scores:
    """Score `detections`, a DETECTION array, which may be empty, against all images of `ground_truth`."""
    entries = detections_as_json(detections)
    annotations = (entry | {"area": entry["bbox"][2] * entry["bbox"][3], "iscrowd": 0} for entry in entries)
    # Not COCO.loadRes, which fails on an empty list.
    found = indexed_coco(ground_truth.dataset["images"], ground_truth.dataset["categories"], annotations)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        evaluation = COCOeval(ground_truth, found, "bbox")
        evaluation.params.catIds = list(categories.ids)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    stats = np.where(evaluation.stats < 0, math.nan, evaluation.stats)
    summary = dict(zip(SUMMARY, stats.tolist(), strict=True))
    # (thresholds, recalls, classes, areas, limits): all areas, 100 detections; -1 if there is no object.
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    objects = Counter(a["category_id"] for a in ground_truth.dataset["annotations"] if not a["iscrowd"])
    classes = [
        ClassScore(name, _mean(precision[:, :, k]), _mean(precision[0, :, k]), objects[category_id])
        for k, (name, category_id) in enumerate(zip(categories.names, categories.ids, strict=True))
    ]
    return Scores(summary, tuple(classes))


def detections_as_json(detections: np.ndarray) -> list[dict[str, object]]:
    """COCO's result format."""
    columns = (detections[name].tolist() for name in DETECTION.names)
    return [dict(zip(DETECTION.names, row, strict=True)) for row in zip(*columns, strict=True)]


def _mean(precision: np.ndarray) -> float:
    counted = precision[precision > -1]
    return float(counted.mean()) if counted.size else math.nan


def summary_table(scores: Scores) -> str:
    """COCO's twelve numbers in two columns."""
    summary = scores.summary
    lines = [
        f"  {precision:<10}{_cell(summary[precision])}    {recall:<10}{_cell(summary[recall])}"
        for precision, recall in zip(PRECISIONS, RECALLS, strict=True)
    ]
    return "\n".join([HEADING, *lines])


def class_table(scores: Scores) -> str:
    """AP of every class."""
    width = max(len("class"), *(len(score.name) for score in scores.classes))
    header = f"  {'class':<{width}}  objects       AP     AP50"
    lines = [
        f"  {score.name:<{width}}  {score.num_objects:>7}  {_cell(score.ap):>7}  {_cell(score.ap50):>7}"
        for score in scores.classes
    ]
    return "\n".join([header, *lines])


def _cell(score: float) -> str:
    return "    -" if math.isnan(score) else f"{score:5.3f}"
