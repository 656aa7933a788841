"""Data sets in COCO's format, their transforms and batches."""

from litedetr.data.annotations import read_categories
from litedetr.data.build import DatasetPair, build_datasets, build_eval_dataset
from litedetr.data.categories import Categories
from litedetr.data.coco import CocoDetection, coco_ground_truth
from litedetr.data.coco_classes import COCO_CLASSES
from litedetr.data.config import DataConfig, ShapesConfig, TransformConfig
from litedetr.data.errors import DataError
from litedetr.data.images import IMAGENET_MEAN, IMAGENET_STD, denormalize, normalize, read_image
from litedetr.data.sampling import EpochSampler, Sample, SampleKey, collate

__all__ = [
    "COCO_CLASSES",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Categories",
    "CocoDetection",
    "DataConfig",
    "DataError",
    "DatasetPair",
    "EpochSampler",
    "Sample",
    "SampleKey",
    "ShapesConfig",
    "TransformConfig",
    "build_datasets",
    "build_eval_dataset",
    "coco_ground_truth",
    "collate",
    "denormalize",
    "normalize",
    "read_categories",
    "read_image",
]
