"""A data set in COCO's detection format."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools.coco import COCO
from torch.utils.data import Dataset

from litedetr.boxes import xyxy_to_cxcywh
from litedetr.data.annotation_warnings import annotation_warnings
from litedetr.data.augmentations import Source, augment
from litedetr.data.categories import Categories
from litedetr.data.coco_json import CocoJson, is_ignored
from litedetr.data.data_config import TransformConfig
from litedetr.data.dataset_layout import SplitFiles
from litedetr.data.epoch_sampler import Sample, SampleKey
from litedetr.data.errors import DataError
from litedetr.data.read_images import read_image, to_pixels
from litedetr.data.stopwatch import Clock
from litedetr.data.transforms import LabelledImage, for_evaluation
from litedetr.structures import Target


class CocoDetection(Dataset[Sample]):
    """One split, indexed by SampleKey (a plain int means epoch 0).

    files: image folder and JSON; both are checked here, whole, and DataError names what is wrong.
    training: augment, with randomness from (seed, epoch, index) only; otherwise only resize.
    categories: of the training set, which this split's must fit; None takes those of the JSON.
    classes: restrict to these category names.
    """

    def __init__(
        self,
        files: SplitFiles,
        transforms: TransformConfig,
        *,
        training: bool,
        seed: int = 0,
        categories: Categories | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        coco = CocoJson.read(files.annotations)
        own = Categories.from_coco(coco.categories)
        own = own if classes is None else own.restricted_to(classes)
        if categories is not None:
            categories.check_covers(own, str(files.annotations))
        self.categories = own if categories is None else categories
        found = coco.check_files(files.images)
        self.notes = [*found.notes, *annotation_warnings(coco, self.categories)]  # what the user should know of it
        self._table = replace(coco.table(self.categories), file_names=np.array(found.names))
        self._files, self._transforms, self._training, self._seed = files, transforms, training, seed
        self._closing_epoch: int | None = None

    def without_augmentations_from(self, epoch: int) -> CocoDetection:
        """The same set, whose images have no `data.transforms.augmentations` from `epoch` on, only flip and crop."""
        closing = copy(self)
        closing._closing_epoch = epoch
        return closing

    @property
    def annotations_path(self) -> Path:
        return self._files.annotations

    @property
    def image_ids(self) -> list[int]:
        """Ids of all images, in the order of their indices."""
        return self._table.ids.tolist()

    @property
    def object_counts(self) -> np.ndarray:
        """(I,) objects of every image, crowds and empty boxes left out."""
        return np.diff(self._table.offsets)

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, key: SampleKey | int) -> Sample:
        return self.sample(key)

    def sample(self, key: SampleKey | int, clock: Clock = nullcontext) -> Sample:
        """The item of `key`. clock: gets the steps `decode`, `augment` and `resize`."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        item = self._labelled_image(index, clock)
        if self._training:
            item = augment(item, self._transforms_of(epoch), self._source(epoch, index, clock), clock)
        else:
            with clock("resize"):
                item = for_evaluation(item, self._transforms)
        return Sample(item.image, self._target(index, item))

    def image_path(self, image_id: int) -> Path:
        return self._path(self._index(image_id))

    def load_image(self, image_id: int) -> Image.Image:
        """The untransformed RGB image that the annotations refer to."""
        return self._load(self._index(image_id))

    def coco_ground_truth(self) -> COCO:
        """Ground truth for pycocotools: every image, the objects of `categories`, crowds included."""
        return coco_ground_truth(self.annotations_path, self.categories)

    def _labelled_image(self, index: int, clock: Clock) -> LabelledImage:
        """As stored. clock: gets the step `decode`."""
        with clock("decode"):
            image = to_pixels(self._load(index))
        boxes, labels = self._table.objects(index)
        return LabelledImage(image, torch.from_numpy(boxes.copy()), torch.from_numpy(labels.copy()))

    def _transforms_of(self, epoch: int) -> TransformConfig:
        closing = self._closing_epoch is not None and epoch >= self._closing_epoch
        return replace(self._transforms, augmentations={}) if closing else self._transforms

    def _source(self, epoch: int, index: int, clock: Clock) -> Source:
        """Of the randomness of an item."""
        sequence = np.random.SeedSequence(self._seed, spawn_key=(epoch, index))
        load = partial(self._labelled_image, clock=clock)
        return Source(np.random.default_rng(sequence), load, len(self), self._transforms.flip)

    def _target(self, index: int, item: LabelledImage) -> Target:
        height, width = self._table.sizes[index].tolist()
        boxes = xyxy_to_cxcywh(item.boxes / torch.tensor(item.size).repeat(2))
        return Target(item.labels, boxes, int(self._table.ids[index]), (height, width))

    def _index(self, image_id: int) -> int:
        found = np.flatnonzero(self._table.ids == image_id)
        if len(found) == 0:
            raise KeyError(f"{self.annotations_path} has no image with the id {image_id}")
        return int(found[0])

    def _path(self, index: int) -> Path:
        return self._files.images / str(self._table.file_names[index])

    def _load(self, index: int) -> Image.Image:
        height, width = self._table.sizes[index].tolist()
        try:
            return read_image(self._path(index), (height, width))
        except DataError as error:
            raise DataError(f"image id {self._table.ids[index]} of {self.annotations_path}: {error}") from error


def coco_ground_truth(annotations: Path, categories: Categories) -> COCO:
    """For pycocotools, of a COCO JSON: every image, the objects of `categories`, crowds included.

    A missing iscrowd counts as 0, a missing area as the box's, and `ignore: 1` as a crowd.
    """
    source = CocoJson.read(annotations)
    known = set(categories.ids)
    kept = [a for a in source.annotations if a["category_id"] in known]
    images = [{name: image[name] for name in ("id", "file_name", "width", "height")} for image in source.images]
    return indexed_coco(images, categories.to_coco(), map(_ground_truth, kept))


def _ground_truth(annotation: Mapping[str, Any]) -> dict[str, Any]:
    _, _, width, height = annotation["bbox"]
    area, crowd = annotation.get("area", width * height), int(is_ignored(annotation))
    return {name: annotation[name] for name in ("image_id", "category_id", "bbox")} | {"area": area, "iscrowd": crowd}


def indexed_coco(images: list[dict], categories: list[dict], annotations: Iterable[dict[str, Any]]) -> COCO:
    """For pycocotools, of such entries. Annotations get ids from 1: COCOeval takes a match with the id 0 for none."""
    coco = COCO()
    numbered = [{"id": number} | entry for number, entry in enumerate(annotations, start=1)]
    coco.dataset = {"info": {}, "images": images, "categories": categories, "annotations": numbered}
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        coco.createIndex()
    return coco
