"""COCO JSON files: checked once, entry by entry, then kept as compact arrays."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

import numpy as np

from litedetr.data.categories import Categories
from litedetr.data.dataset_files import FoundFiles, find_files, unreadable
from litedetr.data.errors import DataError

_Entry = Mapping[str, Any]
_INT64 = range(-(2**63), 2**63)
_TOO_LARGE = 2**31  # pixels: no image has such a side, and beyond 64 bits arithmetic would overflow
_NO_TEXT = ("Cc", "Cs", "Zl", "Zp")  # Unicode's control characters, lone surrogates, line and paragraph separators


@dataclass(frozen=True)
class ImageTable:
    """Images and training objects of a split as arrays: workers share them instead of copying a dict per object."""

    ids: np.ndarray  # (I,) int64 image ids
    file_names: np.ndarray  # (I,) str
    sizes: np.ndarray  # (I, 2) int32, (height, width) as the JSON gives them
    offsets: np.ndarray  # (I + 1,) int64; the objects of image i are offsets[i] to offsets[i + 1]
    boxes: np.ndarray  # (N, 4) float32, xyxy in pixels, clipped to the image, none empty; no ignored objects
    labels: np.ndarray  # (N,) int64

    def __len__(self) -> int:
        return len(self.ids)

    def objects(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """boxes (n, 4) and labels (n,) of the image at `index`."""
        part = slice(self.offsets[index], self.offsets[index + 1])
        return self.boxes[part], self.labels[part]


@dataclass(frozen=True)
class CocoJson:
    """A checked COCO JSON: `images`, `annotations` and `categories` as COCO defines them, read from `path`."""

    path: Path
    images: list[_Entry]
    annotations: list[_Entry]
    categories: list[_Entry]

    @classmethod
    def read(cls, path: Path) -> CocoJson:
        """DataError names the file, and the entry's id, of whatever is not COCO."""
        content = _load(path)
        coco = cls(path, *(_entries(content, name, path) for name in ("images", "annotations", "categories")))
        _check_categories(coco)
        _check_images(coco)
        _check_annotations(coco)
        return coco

    def table(self, categories: Categories) -> ImageTable:
        """Arrays of all images, and of the objects that belong to `categories`."""
        position = {image["id"]: index for index, image in enumerate(self.images)}
        label_of = categories.labels
        kept = [a for a in self.annotations if a["category_id"] in label_of and not is_ignored(a)]
        kept.sort(key=lambda a: position[a["image_id"]])  # stable: the JSON's order within an image
        owners = np.array([position[a["image_id"]] for a in kept], dtype=np.int64)
        labels = np.array([label_of[a["category_id"]] for a in kept], dtype=np.int64)
        sizes = np.array([(image["height"], image["width"]) for image in self.images], dtype=np.int32)
        xy, wh = np.hsplit(np.array([a["bbox"] for a in kept], dtype=np.float64).reshape(-1, 4), 2)
        boxes = np.hstack([xy, xy + wh]).clip(0, np.tile(sizes[owners, ::-1], 2)).astype(np.float32)
        solid = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        return ImageTable(
            ids=np.array([image["id"] for image in self.images], dtype=np.int64),
            file_names=np.array([image["file_name"] for image in self.images]),
            sizes=sizes,
            offsets=np.concatenate([[0], np.bincount(owners[solid], minlength=len(self.images)).cumsum()]),
            boxes=boxes[solid],
            labels=labels[solid],
        )

    def check_files(self, folder: Path) -> FoundFiles:
        """The images' files in `folder`; DataError unless all are there and begin as an image does."""
        found = find_files(folder, [image["file_name"] for image in self.images], self.path)
        faults = unreadable([folder / name for name in found.names])
        if faults:
            (index, reason), path = faults[0], folder / found.names[faults[0][0]]
            raise DataError(
                f"image id {self.images[index]['id']} of {self.path}: {path}: cannot be read as an image: {reason} "
                f"({len(faults)} of {len(self.images)} images are not readable)"
            )
        return found


def read_categories(path: Path) -> Categories:
    """The categories of a COCO JSON; DataError if it is none."""
    return Categories.from_coco(CocoJson.read(path).categories)


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path}: the annotation file does not exist") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}") from error


def _entries(content: Any, name: str, path: Path) -> list[_Entry]:
    entries = content.get(name) if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(f"{path}: not a COCO file: expected an object with a list of objects under {name!r}")
    if not entries and name != "annotations":
        raise DataError(f"{path}: it has no {name}")
    return entries


def _check_ids(entries: list[_Entry], kind: str, path: Path) -> None:
    """The ids that results carry: each a distinct int64."""
    for number, entry in enumerate(entries):
        advice = f"; results carry it: number these entries, and use the numbers as {kind}_id"
        entry_id = _field(entry, "id", int, f"{path}: {kind} number {number}", advice)
        if entry_id not in _INT64:
            raise DataError(f"{path}: {kind} id {entry_id} does not fit 64 bits")
    _check_distinct(entries, kind, path)


def _check_distinct(entries: list[_Entry], kind: str, path: Path) -> None:
    """Of ids that are integers: no other is ever used."""
    counts = Counter(entry["id"] for entry in entries if type(entry.get("id")) is int)
    for entry_id, count in counts.items():
        if count > 1:
            raise DataError(f"{path}: {kind} id {entry_id} occurs twice")


def is_ignored(annotation: _Entry) -> bool:
    """Whether it is a crowd, or marked by mmdetection's `ignore`: no object to learn, and none to be scored by."""
    return bool(annotation.get("iscrowd", 0) or annotation.get("ignore", 0))


def annotation_name(annotation: _Entry, number: int) -> str:
    """How messages name it: by its id, which may be missing or anything, otherwise by its place in the file from 0."""
    entry_id = annotation.get("id")
    if type(entry_id) is int or (isinstance(entry_id, str) and entry_id):
        return f"annotation id {shortened(entry_id)}"
    return f"annotation number {number}"


def _field(entry: _Entry, name: str, kind: type, where: str, advice: str = "") -> Any:
    value = entry.get(name)
    if type(value) is not kind:  # bool is an int to isinstance
        raise DataError(f"{where}: expected {name!r} of type {kind.__name__}, got {shortened(value)}{advice}")
    return value


def _check_categories(coco: CocoJson) -> None:
    _check_ids(coco.categories, "category", coco.path)
    for category in coco.categories:
        where = f"{coco.path}: category id {category['id']}"
        name = _field(category, "name", str, where)
        if any(unicodedata.category(letter) in _NO_TEXT for letter in name):
            raise DataError(f"{where}: expected a name of one line without control characters, got {shortened(name)}")


def _check_images(coco: CocoJson) -> None:
    _check_ids(coco.images, "image", coco.path)
    for image in coco.images:
        where = f"{coco.path}: image id {image['id']}"
        _field(image, "file_name", str, where)
        if not all(0 < _field(image, side, int, where) < _TOO_LARGE for side in ("width", "height")):
            got = f"{shortened(image['width'])}x{shortened(image.get('height'))}"
            raise DataError(f"{where}: expected a positive size below 2^31 pixels, got {got}")


def _check_annotations(coco: CocoJson) -> None:
    _check_distinct(coco.annotations, "annotation", coco.path)
    known = {name: {entry["id"] for entry in getattr(coco, name)} for name in ("images", "categories")}
    for number, annotation in enumerate(coco.annotations):
        where = f"{coco.path}: {annotation_name(annotation, number)}"
        for name, ids in (("image_id", known["images"]), ("category_id", known["categories"])):
            if _field(annotation, name, int, where) not in ids:
                raise DataError(f"{where}: there is no {name.removesuffix('_id')} with the id {annotation[name]}")
        if not _is_box(annotation.get("bbox")):
            expected = "a bbox [x, y, width, height] of numbers within 2^31, width and height at least 0"
            raise DataError(f"{where}: expected {expected}, got {shortened(annotation.get('bbox'))}")
        for flag in ("iscrowd", "ignore"):
            if annotation.get(flag) not in (None, 0, 1):
                raise DataError(f"{where}: expected {flag} 0 or 1, got {shortened(annotation[flag])}")
        if not _is_number(annotation.get("area", 0), 0, _TOO_LARGE**2):
            raise DataError(f"{where}: expected a number of at least 0 as area, got {shortened(annotation['area'])}")


def _is_box(value: Any) -> bool:
    lowest = (-_TOO_LARGE, -_TOO_LARGE, 0, 0)
    return (
        isinstance(value, list)
        and len(value) == 4
        and all(_is_number(number, low, _TOO_LARGE) for number, low in zip(value, lowest, strict=True))
    )


def _is_number(value: Any, low: int, high: int) -> bool:
    """Whether it lies in [low, high); NaN does not."""
    return type(value) in (int, float) and low <= value < high
