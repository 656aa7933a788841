"""Pictures of validation images: predictions at the left, ground truth at the right."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageDraw
from pycocotools.coco import COCO

from litedetr.drawing.draw_boxes import LabelledBox, colour_of, draw_boxes

MIN_SCORE = 0.3
HEADING, GAP = 16, 6


def sample_picture(image: Image.Image, image_id: int, detections: np.ndarray, ground_truth: COCO) -> Image.Image:
    """One image twice: left the detections of score >= 0.3, out of a DETECTION array, or the best score if none has it;
    right the ground truth.
    """
    of_image = detections[detections["image_id"] == image_id]
    mine = of_image[of_image["score"] >= MIN_SCORE]
    found = [_box(ground_truth, row["category_id"], row["bbox"], f" {row['score']:.2f}") for row in mine[::-1]]
    annotations = ground_truth.loadAnns(ground_truth.getAnnIds(imgIds=[image_id]))
    truth = [_box(ground_truth, a["category_id"], a["bbox"], " (crowd)" if a["iscrowd"] else "") for a in annotations]
    left, right = _panel(image, _heading(of_image["score"]), found), _panel(image, "ground truth", truth)
    both = Image.new("RGB", (left.width + right.width + GAP, left.height), "white")
    both.paste(left, (0, 0))
    both.paste(right, (left.width + GAP, 0))
    return both


def _heading(scores: np.ndarray) -> str:
    """An empty panel says why it is empty."""
    if len(scores) and scores.max() >= MIN_SCORE:
        return "predictions"
    best = f"best {scores.max():.2g}" if len(scores) else "no detection"
    return f"predictions: none of score >= {MIN_SCORE:g} ({best})"


def _box(ground_truth: COCO, category_id: int, bbox: Iterable[float], suffix: str) -> LabelledBox:
    label = sorted(ground_truth.getCatIds()).index(category_id)
    name = ground_truth.cats[category_id]["name"]
    return LabelledBox(tuple(bbox), name + suffix, colour_of(label))


def _panel(image: Image.Image, heading: str, boxes: Iterable[LabelledBox]) -> Image.Image:
    drawn = draw_boxes(image, boxes)
    panel = Image.new("RGB", (drawn.width, drawn.height + HEADING), "white")
    panel.paste(drawn, (0, HEADING))
    ImageDraw.Draw(panel).text((3, 2), heading, fill="black")
    return panel
