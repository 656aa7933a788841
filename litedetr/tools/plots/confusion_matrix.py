"""A confusion matrix of detections: which classes are taken for which.

Within an image, detections choose in the order of their scores. Each takes the object that it overlaps most among those
that no better one has taken, whatever the class of either, if their IoU is high enough. A detection without an object
stands in the row "background", an object without a detection in the column "background". Crowds are no objects: a
detection without one is left out if it lies in a crowd of its own class, as in COCO's evaluation.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask
from pycocotools.coco import COCO

BACKGROUND = "background"


@dataclass(frozen=True)
class MatchRule:
    """Which detection counts as found which object."""

    iou: float = 0.5  # least overlap of a detection and its object
    min_score: float = 0.3  # detections of a lower score are left out


@dataclass(frozen=True)
class ConfusionMatrix:
    """Which classes are taken for which."""

    names: tuple[str, ...]  # of the K classes, then the background
    counts: np.ndarray  # (K + 1, K + 1), objects of class i that were detected as class j; the last is the background
    rule: MatchRule

    @property
    def shares(self) -> np.ndarray:
        """Every row over its sum; rows without anything are zero."""
        return self.counts / np.maximum(self.counts.sum(axis=1, keepdims=True), 1)

    def of_seen_classes(self) -> ConfusionMatrix:
        """Without classes that have neither objects nor detections."""
        seen = (self.counts.sum(axis=0) + self.counts.sum(axis=1)) > 0
        seen[-1] = True
        names = tuple(name for name, there in zip(self.names, seen, strict=True) if there)
        return ConfusionMatrix(names, self.counts[np.ix_(seen, seen)], self.rule)

    def of_most_confused(self, number: int) -> ConfusionMatrix:
        """With the `number` classes most often taken for others or for nothing; the rest as one class before the last.

        Unchanged if there are no more classes than that.
        """
        rest = len(self.names) - 1 - number
        if rest <= 0:
            return self
        mistakes = (self.counts.sum(axis=0) + self.counts.sum(axis=1) - 2 * self.counts.diagonal())[:-1]
        kept = np.sort(np.argsort(-mistakes, kind="stable")[:number])
        place = np.full(len(self.names), number)
        place[[*kept, -1]] = [*range(number), number + 1]
        counts = np.zeros((number + 2, number + 2), dtype=self.counts.dtype)
        np.add.at(counts, (place[:, None], place[None, :]), self.counts)
        names = (*(self.names[i] for i in kept), f"({rest} other classes)", self.names[-1])
        return ConfusionMatrix(names, counts, self.rule)

    def write_csv(self, path: Path) -> None:
        """Counts; rows are objects' classes, columns detections'."""
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["object / detection", *self.names])
            writer.writerows([name, *row] for name, row in zip(self.names, self.counts.tolist(), strict=True))


def confusion_matrix(ground_truth: COCO, detections: np.ndarray, rule: MatchRule) -> ConfusionMatrix:
    """Over all images of `ground_truth` and all of its classes; detections: a DETECTION array."""
    ids = sorted(ground_truth.cats)
    labels = {category_id: label for label, category_id in enumerate(ids)}
    counts = np.zeros((len(ids) + 1, len(ids) + 1), dtype=np.int64)
    rows: defaultdict[int, list[np.void]] = defaultdict(list)
    for row in detections[detections["score"] >= rule.min_score]:
        rows[int(row["image_id"])].append(row)
    for image_id in ground_truth.imgs:
        for true, found in _pairs(ground_truth.imgToAnns[image_id], rows[image_id], rule.iou):
            counts[labels.get(true, -1), labels.get(found, -1)] += 1
    return ConfusionMatrix((*(ground_truth.cats[i]["name"] for i in ids), BACKGROUND), counts, rule)


def _pairs(
    annotations: list[dict[str, Any]], rows: list[np.void], least: float
) -> Iterable[tuple[int | None, int | None]]:
    """(category id of the object, category id of the detection) of one image; None is the background."""
    objects = [a for a in annotations if not a["iscrowd"]]
    crowds = [a for a in annotations if a["iscrowd"]]
    rows = sorted(rows, key=lambda row: -row["score"])
    overlap, within = _overlaps(rows, objects), _overlaps(rows, crowds)
    free = np.ones(len(objects), dtype=bool)
    least = min(least, 1 - 1e-10)  # as COCO's evaluation: rounding must not undo an exact overlap
    for number, row in enumerate(rows):
        category = int(row["category_id"])
        candidates = np.where(free, overlap[number], -1)
        best = int(candidates.argmax()) if len(objects) else None
        if best is not None and candidates[best] >= least:
            free[best] = False
            yield objects[best]["category_id"], category
        elif not any(c["category_id"] == category and w >= least for c, w in zip(crowds, within[number], strict=True)):
            yield None, category
    for number in np.flatnonzero(free):
        yield objects[number]["category_id"], None


def _overlaps(rows: list[np.void], annotations: list[dict[str, Any]]) -> np.ndarray:
    """(rows, annotations) IoU; with a crowd, the share of the detection that lies in it."""
    if not rows or not annotations:
        return np.zeros((len(rows), len(annotations)))
    found, truth = np.array([row["bbox"] for row in rows]), np.array([a["bbox"] for a in annotations], dtype=float)
    return np.asarray(mask.iou(found, truth, [a["iscrowd"] for a in annotations]))
