"""Data sets in COCO's format, their transforms and batches."""

from litedetr.data.build import DatasetPair, build_datasets, build_eval_dataset
from litedetr.data.categories import Categories
from litedetr.data.coco_classes import COCO_CLASSES
from litedetr.data.coco_dataset import CocoDetection, coco_ground_truth, indexed_coco
from litedetr.data.coco_json import read_categories
from litedetr.data.data_config import DataConfig, ShapesConfig, TransformConfig, Workers
from litedetr.data.epoch_sampler import EpochSampler, Sample, SampleKey, collate
from litedetr.data.errors import DataError
from litedetr.data.image_source import ImageFiles, find_images
from litedetr.data.read_images import read_image, read_size, to_pixels, to_rgb
from litedetr.data.stopwatch import Stopwatch
from litedetr.data.transforms import evaluation_pixels, evaluation_size
