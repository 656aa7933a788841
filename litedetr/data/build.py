"""From settings to data sets."""

from __future__ import annotations

from dataclasses import dataclass

from litedetr.data.categories import Categories
from litedetr.data.coco_dataset import CocoDetection
from litedetr.data.data_config import DataConfig
from litedetr.data.dataset_layout import Split, SplitFiles, find_in_layouts, find_split
from litedetr.data.shapes_dataset import shapes_root


@dataclass(frozen=True)
class DatasetPair:
    """The training split, augmented, and the validation split, resized only; both use the training categories."""

    train: CocoDetection
    val: CocoDetection

    @property
    def notes(self) -> list[str]:
        """What the user should know of both, one line each."""
        return [*self.train.notes, *self.val.notes]


def build_datasets(config: DataConfig, seed: int) -> DatasetPair:
    """Both splits, checked; `seed` decides the augmentation. ConfigError or DataError says what is wrong."""
    train_files, val_files = _find(config, "train"), _find(config, "val")
    train = CocoDetection(train_files, config.transforms, training=True, seed=seed, classes=config.classes)
    return DatasetPair(train, _evaluated(val_files, config, seed, train.categories))


def build_eval_dataset(config: DataConfig, seed: int, categories: Categories | None = None) -> CocoDetection:
    """The validation split; `categories` are those that the detector was trained on, None takes the JSON's own."""
    return _evaluated(_find(config, "val"), config, seed, categories)


def _evaluated(files: SplitFiles, config: DataConfig, seed: int, categories: Categories | None) -> CocoDetection:
    return CocoDetection(
        files, config.transforms, training=False, seed=seed, categories=categories, classes=config.classes
    )


def _find(config: DataConfig, split: Split) -> SplitFiles:
    if config.name == "shapes":
        return find_in_layouts(shapes_root(config.shapes), split)
    return find_split(config, split)
