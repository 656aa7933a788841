"""Settings of the data: which set, where it lies, how images are resized and augmented."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from litedetr.settings import ConfigError, require, typed

LARGEST_SIDE, LONGEST_SIDE = 2**14, 2**16  # pixels: of what images are resized to, and of their cap
MOST_WORKERS = 256  # processes, of each process that trains
MOST_PREFETCHED = 64  # batches, of each process that loads images
MOST_DRAWN, LARGEST_DRAWN, MOST_OBJECTS = 10**6, 4096, 1000  # images, pixels a side, objects of an image


def require_workers(name: str, value: int) -> None:
    """Raise ConfigError unless so many processes can read images for one."""
    require(0 <= value <= MOST_WORKERS, name, f"an integer in 0..{MOST_WORKERS}", value)


@dataclass(frozen=True)
@typed
class TransformConfig:
    """How an image is resized and augmented; sides are in pixels.

    train_sides: shortest sides to draw from in training; empty keeps the image's own size.
    max_side: cap of the longest side, in training and evaluation; it wins over the shortest side.
    eval_side: shortest side in evaluation; None keeps the image's own size.
    flip: probability of a horizontal flip.
    crop: DETR's second branch (Carion et al., 2020): with `crop_probability`, resize the shortest side to one of
        `crop_resize_sides`, cut a window whose sides are drawn from `crop_range`, and only then resize as above.
    """

    train_sides: tuple[int, ...]
    max_side: int
    eval_side: int | None
    flip: float
    crop: bool
    crop_probability: float = 0.5
    crop_resize_sides: tuple[int, ...] = (400, 500, 600)
    crop_range: tuple[int, int] = (384, 600)

    def __post_init__(self) -> None:
        sides = (*self.train_sides, *(() if self.eval_side is None else (self.eval_side,)))
        capped = 1 <= self.max_side <= LONGEST_SIDE
        require(capped, "data.transforms.max_side", f"1 to {LONGEST_SIDE} pixels", self.max_side)
        for name in ("train_sides", "crop_resize_sides"):
            value = getattr(self, name)
            fits = all(1 <= side <= LARGEST_SIDE for side in value)
            require(fits, f"data.transforms.{name}", f"sides of 1 to {LARGEST_SIDE} pixels", value)
        fits = self.eval_side is None or 1 <= self.eval_side <= LARGEST_SIDE
        require(fits, "data.transforms.eval_side", f"null or 1 to {LARGEST_SIDE} pixels", self.eval_side)
        fits = max(sides, default=0) <= self.max_side
        largest = "no less than the largest of data.transforms.train_sides and eval_side"
        require(fits, "data.transforms.max_side", f"{largest}, {max(sides, default=0)}", self.max_side)
        for name in ("flip", "crop_probability"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"data.transforms.{name}", "a probability in [0, 1]", value)
        low, high = self.crop_range
        require(0 < low <= high, "data.transforms.crop_range", "two sides, 0 < smallest <= largest", self.crop_range)
        has_sides = not self.crop or len(self.crop_resize_sides) > 0
        require(has_sides, "data.transforms.crop_resize_sides", "at least one side", self.crop_resize_sides)


@dataclass(frozen=True)
@typed
class ShapesConfig:
    """The embedded data set: what is drawn, and where it is kept.

    cache: folder that holds the drawn set, one sub-folder for each combination of the other settings.
    seed: of the drawing; the augmentation follows the run's seed instead.
    num_train, num_val: number of images. min_side, max_side: range of the images' sides in pixels.
    max_objects: an image holds 1 to this many objects, a few hold none.
    """

    cache: str = "~/.cache/litedetr"
    seed: int = 0
    num_train: int = 2000
    num_val: int = 300
    min_side: int = 128
    max_side: int = 192
    max_objects: int = 8

    def __post_init__(self) -> None:
        for name, most in (("num_train", MOST_DRAWN), ("num_val", MOST_DRAWN), ("max_objects", MOST_OBJECTS)):
            value = getattr(self, name)
            require(1 <= value <= most, f"data.shapes.{name}", f"an integer in 1..{most}", value)
        require(self.seed >= 0, "data.shapes.seed", "at least 0", self.seed)
        require(self.min_side >= 32, "data.shapes.min_side", "at least 32 pixels", self.min_side)
        fits = self.min_side <= self.max_side <= LARGEST_DRAWN
        expected = f"data.shapes.min_side ({self.min_side}) to {LARGEST_DRAWN} pixels"
        require(fits, "data.shapes.max_side", expected, self.max_side)


@dataclass(frozen=True)
@typed
class DataConfig:
    """A data set in COCO's format, or the embedded one.

    name: "shapes" (drawn on first use) or "coco" (any set with COCO JSON files).
    root: folder of a coco set, in one of the layouts of `litedetr.data.dataset_layout`.
    train_images ... val_annotations: explicit folders and JSON files, relative to `root` where it is given.
    classes: train and evaluate on these category names alone; None takes all.
    num_workers: processes that load images. prefetch: batches that each of them loads in advance.
    """

    name: Literal["shapes", "coco"]
    transforms: TransformConfig
    root: str | None = None
    train_images: str | None = None
    train_annotations: str | None = None
    val_images: str | None = None
    val_annotations: str | None = None
    classes: tuple[str, ...] | None = None
    shapes: ShapesConfig = field(default_factory=ShapesConfig)
    num_workers: int = 0
    prefetch: int = 2

    def __post_init__(self) -> None:
        require_workers("data.num_workers", self.num_workers)
        expected = f"an integer in 1..{MOST_PREFETCHED}"
        require(1 <= self.prefetch <= MOST_PREFETCHED, "data.prefetch", expected, self.prefetch)
        if self.classes is not None:
            distinct = 0 < len(self.classes) == len(set(self.classes))
            require(distinct, "data.classes", "null or distinct category names", self.classes)
        for split in ("train", "val"):
            images, annotations = self.explicit_paths(split)
            missing = f"data.{split}_{'images' if images is None else 'annotations'} is missing"
            paired = (images is None) == (annotations is None)
            names = f"data.{split}_images, data.{split}_annotations"
            require(paired, names, "both or neither", (images, annotations), missing)
        if self.name == "coco":
            self._require_location()
        else:
            self._require_no_location()

    def explicit_paths(self, split: Literal["train", "val"]) -> tuple[str | None, str | None]:
        """The (image folder, JSON file) of a split as configured."""
        if split == "train":
            return self.train_images, self.train_annotations
        return self.val_images, self.val_annotations

    def _require_location(self) -> None:
        if self.root is not None or self.val_annotations is not None:
            return
        names = ("train_images", "train_annotations", "val_images", "val_annotations")
        missing = " and ".join(f"data.{name}" for name in names if getattr(self, name) is None)
        given = "got none of them" if self.train_annotations is None else f"{missing} are missing"
        raise ConfigError(
            "data.root: expected the folder of a COCO-format data set, or data.train_images, "
            f"data.train_annotations, data.val_images and data.val_annotations; {given}"
        )

    def _require_no_location(self) -> None:
        for name in ("root", "train_images", "val_images"):
            value = getattr(self, name)
            require(value is None, f"data.{name}", f"null for the data set {self.name!r} (take data=coco)", value)
