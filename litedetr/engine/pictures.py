"""Predictions beside ground truth, drawn."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from pycocotools.coco import COCO

COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#800000", "#808000", "#000075")
MIN_SCORE = 0.3
MIN_SIDE = 360
HEADING = 16


@dataclass(frozen=True)
class LabelledBox:
    """bbox: (x, y, width, height) in pixels. text: what stands at it. colour: a Pillow colour."""

    bbox: tuple[float, float, float, float]
    text: str
    colour: str


def sample_picture(image: Image.Image, image_id: int, detections: np.ndarray, ground_truth: COCO) -> Image.Image:
    """One image twice: left the detections of score >= 0.3, out of a DETECTION array; right the ground truth."""
    mine = detections[(detections["image_id"] == image_id) & (detections["score"] >= MIN_SCORE)]
    found = [_box(ground_truth, row["category_id"], row["bbox"], f" {row['score']:.2f}") for row in mine]
    annotations = ground_truth.loadAnns(ground_truth.getAnnIds(imgIds=[image_id]))
    truth = [_box(ground_truth, a["category_id"], a["bbox"], " (crowd)" if a["iscrowd"] else "") for a in annotations]
    return _side_by_side(_panel(image, "predictions", found), _panel(image, "ground truth", truth))


def _box(ground_truth: COCO, category_id: int, bbox: Iterable[float], suffix: str) -> LabelledBox:
    label = sorted(ground_truth.getCatIds()).index(category_id)
    name = ground_truth.cats[category_id]["name"]
    return LabelledBox(tuple(bbox), name + suffix, COLOURS[label % len(COLOURS)])


def _panel(image: Image.Image, heading: str, boxes: Iterable[LabelledBox]) -> Image.Image:
    # Small images are enlarged, so that the text does not hide the objects.
    scale = max(1.0, MIN_SIDE / min(image.size))
    scaled = image.resize((round(image.width * scale), round(image.height * scale)))
    panel = Image.new("RGB", (scaled.width, scaled.height + HEADING), "white")
    panel.paste(scaled, (0, HEADING))
    draw = ImageDraw.Draw(panel)
    draw.text((3, 2), heading, fill="black")
    for box in boxes:
        _draw_box(draw, box, scale)
    return panel


def _draw_box(draw: ImageDraw.ImageDraw, box: LabelledBox, scale: float) -> None:
    x, y, width, height = (side * scale for side in box.bbox)
    y += HEADING
    draw.rectangle((x, y, x + width, y + height), outline=box.colour, width=2)
    anchor = (x + 2, max(y - 12, HEADING))
    draw.rectangle(draw.textbbox(anchor, box.text), fill=box.colour)
    draw.text(anchor, box.text, fill="white")


def _side_by_side(left: Image.Image, right: Image.Image) -> Image.Image:
    both = Image.new("RGB", (left.width + right.width + 6, left.height), "white")
    both.paste(left, (0, 0))
    both.paste(right, (left.width + 6, 0))
    return both
