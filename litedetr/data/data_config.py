"""Settings of the data: the dataset and its files, and how images are resized and augmented."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field

from litedetr.data.augmentations import AUGMENTATIONS
from litedetr.settings import (
    ConfigError,
    Count,
    Flag,
    Integer,
    Many,
    Maybe,
    NotNegative,
    Pair,
    Probability,
    Some,
    Text,
    key_of,
    require,
    settings,
)

AugmentationName = key_of(AUGMENTATIONS)
Side = Annotated[Integer, Field(ge=1, le=2**14)]  # pixels
LARGEST_DRAWN = 4096  # pixels a side
DrawnImages = Annotated[Integer, Field(ge=1, le=10**6)]
Workers = Annotated[Integer, Field(ge=0, le=256)]  # processes that load images, of each process that trains


@settings("data.transforms")
class TransformConfig:
    """How an image is resized and augmented; sides are in pixels. The defaults are the published recipe of DETR."""

    train_sides: Many[Side] = tuple(range(480, 801, 32))  # shortest sides to draw from; empty: the image's own
    max_side: Annotated[Integer, Field(ge=1, le=2**16)] = 1333  # cap of the longest side; wins over the shortest side
    eval_side: Maybe[Side] = 800  # shortest side in evaluation; None: the image's own
    flip: Probability = 0.5  # of a horizontal flip
    # DETR's second branch (Carion et al., 2020): resize the shortest side to one of crop_resize_sides, cut a window
    # whose sides are drawn from crop_range, and only then resize as above
    crop: Flag = True
    crop_probability: Probability = 0.5
    crop_resize_sides: Many[Side] = (400, 500, 600)
    crop_range: Pair[Count] = (384, 600)  # smallest and largest side of the window
    # further ones by name, with the probability of each; applied in this order, after flip and crop
    augmentations: dict[AugmentationName, Probability] = field(default_factory=dict)
    closing_epochs: NotNegative = 0  # last epochs of a run, without any of `augmentations`; flip and crop stay

    def __post_init__(self) -> None:
        sides = (*self.train_sides, *(() if self.eval_side is None else (self.eval_side,)))
        fits = max(sides, default=0) <= self.max_side
        largest = "no less than the largest of data.transforms.train_sides and eval_side"
        require(fits, "data.transforms.max_side", f"{largest}, {max(sides, default=0)}", self.max_side)
        low, high = self.crop_range
        require(low <= high, "data.transforms.crop_range", "two sides, smallest <= largest", self.crop_range)
        has_sides = not self.crop or len(self.crop_resize_sides) > 0
        require(has_sides, "data.transforms.crop_resize_sides", "at least one side", self.crop_resize_sides)


@settings("data.shapes")
class ShapesConfig:
    """The embedded data set: what is drawn, and where it is kept."""

    cache: Text = "~/.cache/litedetr"  # folder of the drawn set; one sub-folder for each combination of the others
    seed: NotNegative = 0  # of the drawing; the augmentation follows the run's seed
    num_train: DrawnImages = 2000
    num_val: DrawnImages = 300
    min_side: Annotated[Integer, Field(ge=32, le=LARGEST_DRAWN)] = 128  # range of the images' sides, pixels
    max_side: Annotated[Integer, Field(ge=32, le=LARGEST_DRAWN)] = 128
    max_objects: Annotated[Integer, Field(ge=1, le=1000)] = 8  # an image holds 1 to so many; a few hold none

    def __post_init__(self) -> None:
        expected = f"at least data.shapes.min_side ({self.min_side})"
        require(self.min_side <= self.max_side, "data.shapes.max_side", expected, self.max_side)


@settings("data")
class DataConfig:
    """A data set in COCO's format, or the embedded one."""

    name: Literal["shapes", "coco"]  # drawn on first use, or any set with COCO JSON files
    transforms: TransformConfig
    root: Maybe[Text] = None  # folder of a coco set, in one of the layouts of `litedetr.data.dataset_layout`
    train_images: Maybe[Text] = None  # explicit folders and JSON files, relative to `root` if it is given
    train_annotations: Maybe[Text] = None
    val_images: Maybe[Text] = None
    val_annotations: Maybe[Text] = None
    classes: Maybe[Some[Text]] = None  # only these category names; None: all
    shapes: ShapesConfig = field(default_factory=ShapesConfig)
    num_workers: Workers = 0  # processes that load images
    prefetch: Annotated[Integer, Field(ge=1, le=64)] = 2  # batches that each of them loads in advance

    def __post_init__(self) -> None:
        distinct = len(self.classes or ()) == len(set(self.classes or ()))
        require(distinct, "data.classes", "distinct category names", self.classes)
        for split in ("train", "val"):
            images, annotations = self.explicit_paths(split)
            missing = f"data.{split}_{'images' if images is None else 'annotations'} is missing"
            paired = (images is None) == (annotations is None)
            names = f"data.{split}_images, data.{split}_annotations"
            require(paired, names, "both or neither", (images, annotations), missing)
        if self.name == "coco":
            self._require_location()
        else:
            for name in ("root", "train_images", "val_images"):
                value = getattr(self, name)
                require(value is None, f"data.{name}", f"null for the data set {self.name!r} (take data=coco)", value)

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
