"""What a COCO file says, read in plain Python: the oracle for files that were accepted."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class PlainCoco:
    """`images`, `annotations` and `categories` as json.loads gives them."""

    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    categories: list[dict[str, Any]]

    @classmethod
    def read(cls, data: bytes) -> PlainCoco:
        content = json.loads(data)
        return cls(*(content[name] for name in ("images", "annotations", "categories")))

    def objects(self, image: dict[str, Any]) -> list[tuple[int, Box]]:
        """(label, xyxy box in pixels) of what is to be learned, in the file's order."""
        ids = sorted(category["id"] for category in self.categories)
        mine = [a for a in self.annotations if a["image_id"] == image["id"] and not _ignored(a)]
        found = [(ids.index(a["category_id"]), _clipped(a["bbox"], image)) for a in mine]
        return [(label, box) for label, box in found if box[2] > box[0] and box[3] > box[1]]

    def truth(self) -> list[tuple[int, int, list[float], float, int]]:
        """(image id, category id, bbox, area, crowd) of everything, in the file's order."""
        return [
            (
                a["image_id"],
                a["category_id"],
                a["bbox"],
                a.get("area", a["bbox"][2] * a["bbox"][3]),
                int(_ignored(a)),
            )
            for a in self.annotations
        ]

    def is_scored_perfectly(self) -> bool:
        """Whether detections on the truth itself must have an AP of 1: COCO counts no area above 1e10, and an overlap
        of tiny boxes rounds away.
        """
        counted = [entry for entry in self.truth() if not entry[4]]
        usual = all(
            max(map(abs, box)) <= 1e5 and min(box[2:]) >= 0.01 and box[2] * box[3] <= 1e10 and area <= 1e10
            for _, _, box, area, _ in counted
        )
        return usual and len(counted) > 0


def _ignored(annotation: dict[str, Any]) -> bool:
    return bool(annotation.get("iscrowd", 0) or annotation.get("ignore", 0))


def _clipped(bbox: list[float], image: dict[str, Any]) -> Box:
    x, y, width, height = bbox
    corners = zip((x, y, x + width, y + height), (image["width"], image["height"]) * 2, strict=True)
    return tuple(float(np.float32(min(max(0, corner), limit))) for corner, limit in corners)
