"""Warnings about annotations that would train to nothing without an error, each with an example."""

from __future__ import annotations

from collections import Counter

import numpy as np

from litedetr.data.categories import Categories
from litedetr.data.coco_json import CocoJson, annotation_name, is_ignored

MANY = 0.05  # least share of a split's boxes for a warning
SLACK = 2  # pixels that a box may stick out of its image, as where sides were counted from 1 or rounded
NUM_SHOWN = 5  # names of classes


def annotation_warnings(coco: CocoJson, categories: Categories) -> list[str]:
    """A line for each thing that looks wrong with the objects of `categories` in `coco`."""
    known = set(categories.ids)
    mine = [(number, a) for number, a in enumerate(coco.annotations) if a["category_id"] in known]
    learned = [(number, a) for number, a in mine if not is_ignored(a)]
    if not learned:
        return [f"warning: {coco.path}: {_why_none(coco, mine, categories)}: nothing can be learned or scored"]
    size_of = {image["id"]: (image["width"], image["height"]) for image in coco.images}
    names = [annotation_name(a, number) for number, a in learned]
    boxes = np.array([a["bbox"] for _, a in learned], dtype=np.float64)
    sizes = np.array([size_of[a["image_id"]] for _, a in learned], dtype=np.float64)
    counts, ignored = (Counter(a["category_id"] for _, a in mine if is_ignored(a) == flag) for flag in (False, True))
    lines = [*_box_warnings(names, boxes, sizes), *_class_warnings(counts, ignored, categories)]
    return [f"warning: {coco.path}: {line}" for line in lines]


def _why_none(coco: CocoJson, mine: list, categories: Categories) -> str:
    if mine:
        first = annotation_name(mine[0][1], mine[0][0])
        return f"all {len(mine)} objects are marked iscrowd or ignore, the first is {first}"
    if coco.annotations:
        first = annotation_name(coco.annotations[0], 0)
        classes = _few(categories.names)
        return f"none of {len(coco.annotations)} objects is of the classes {classes}, the first is {first}"
    return f"its {len(coco.images)} images have no objects"


def _box_warnings(names: list[str], boxes: np.ndarray, sizes: np.ndarray) -> list[str]:
    """At most one warning for a box, what is most likely wrong first.

    names: of N annotations, for messages. boxes: (N, 4) xywh. sizes: (N, 2), width and height of their images.
    """
    x, y, width, height = boxes.T
    right, bottom = sizes.T
    solid = (width > 0) & (height > 0)
    relative = solid & ((boxes >= 0) & (boxes <= 1.01)).all(axis=1)  # corners and centres too
    outside = solid & ((x >= right) | (y >= bottom) | (x + width <= 0) | (y + height <= 0))
    beyond = (x < -SLACK) | (y < -SLACK) | (x + width > right + SLACK) | (y + height > bottom + SLACK)
    tiny = solid & ~relative & ~outside & ((width < 1) | (height < 1))
    begins_inside = (x >= -SLACK) & (y >= -SLACK)
    corners = begins_inside & (width > x) & (height > y) & (width <= right + SLACK) & (height <= bottom + SLACK)
    reason = ""
    if beyond.mean() >= MANY and corners.mean() > 1 - MANY:
        reason = ", which look like [x1, y1, x2, y2] where COCO has [x, y, width, height]"
    kinds = {
        "lie within 0 to 1, where COCO has pixels": relative,
        "have no width or height and are left out": ~solid,
        f"lie outside their image and are left out{reason}": outside,
        f"stick out of their image and are clipped{reason}": beyond & ~outside,
        "are less than a pixel wide or high": tiny,
    }
    return [
        f"{odd.sum()} of {len(names)} boxes {what}, the first is {names[odd.argmax()]}"
        for what, odd in kinds.items()
        if odd.mean() >= MANY
    ]


def _class_warnings(counts: Counter[int], ignored: Counter[int], categories: Categories) -> list[str]:
    """counts, ignored: by category id, the objects that are learned and those marked iscrowd or ignore."""
    absent = {i: name for name, i in zip(categories.names, categories.ids, strict=True) if not counts[i]}
    if not absent:
        return []
    num_ignored = sum(ignored[i] for i in absent)
    warning = f"no object of {len(absent)} of {len(categories)} classes: {_few([*absent.values()])}"
    return [f"{warning} ({num_ignored} are marked iscrowd or ignore)" if num_ignored else warning]


def _few(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(names[:NUM_SHOWN]) + (", ..." if len(names) > NUM_SHOWN else "")
