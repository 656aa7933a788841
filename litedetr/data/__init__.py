"""Data sets in COCO's format, their transforms and batches."""

from litedetr.data.annotations import read_categories
from litedetr.data.build import DatasetPair, build_datasets, build_eval_dataset
from litedetr.data.categories import Categories
from litedetr.data.clock import Stopwatch
from litedetr.data.coco import CocoDetection, coco_ground_truth
from litedetr.data.coco_classes import COCO_CLASSES
from litedetr.data.data_config import DataConfig, ShapesConfig, TransformConfig, Workers
from litedetr.data.errors import DataError
from litedetr.data.images import read_image, read_size, resized, to_pixels, to_rgb
from litedetr.data.sampling import EpochSampler, Sample, SampleKey, collate
from litedetr.data.sources import ImageFiles, find_images
from litedetr.data.transforms import evaluation_size

__all__ = [
    "COCO_CLASSES",
    "Categories",
    "CocoDetection",
    "DataConfig",
    "DataError",
    "DatasetPair",
    "EpochSampler",
    "ImageFiles",
    "Sample",
    "SampleKey",
    "ShapesConfig",
    "Stopwatch",
    "TransformConfig",
    "Workers",
    "build_datasets",
    "build_eval_dataset",
    "coco_ground_truth",
    "collate",
    "evaluation_size",
    "find_images",
    "read_categories",
    "read_image",
    "read_size",
    "resized",
    "to_pixels",
    "to_rgb",
]
