"""Where the files are found, and what becomes of settings."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from litedetr.data import Categories, DataConfig, DataError, TransformConfig, build_datasets, build_eval_dataset
from litedetr.data.dataset_layout import SplitFiles
from litedetr.settings import ConfigError, from_mapping

Content = dict[str, Any]
Write = Callable[..., SplitFiles]
CONF = Path(__file__).parents[2] / "conf"


def coco(native: TransformConfig, **settings: Any) -> DataConfig:
    return DataConfig(name="coco", transforms=native, **settings)


@pytest.mark.parametrize("year", ["2017", ""])
@pytest.mark.parametrize("folder", ["", "images"])
def test_layouts(
    folder: str, year: str, content: Content, write: Write, native: TransformConfig, tmp_path: Path
) -> None:
    for split in ("train", "val"):
        files = write(content | {"images": content["images"][: 3 if split == "train" else 2]}, split)
        (tmp_path / folder).mkdir(exist_ok=True)
        files.images.rename(tmp_path / folder / f"{split}{year}")
        files.annotations.rename(files.annotations.with_name(f"instances_{split}{year}.json"))
    datasets = build_datasets(coco(native, root=str(tmp_path)), seed=0)
    assert (len(datasets.train), len(datasets.val)) == (3, 2)
    assert datasets.train.categories == Categories(("cat", "dog"), (5, 90))


def test_an_unknown_layout_lists_what_was_looked_for(native: TransformConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        build_datasets(coco(native, root=str(tmp_path)), seed=0)
    for path in ("train2017", "images/train2017", "images/train", "annotations/instances_train.json"):
        assert str(tmp_path / path) in str(error.value)


def test_a_root_that_is_not_there_is_named(native: TransformConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.root: expected an existing folder, got '.*/absent'"):
        build_datasets(coco(native, root=str(tmp_path / "absent")), seed=0)


@pytest.mark.parametrize("relative", [True, False])
def test_explicit_paths(
    relative: bool, content: Content, write: Write, native: TransformConfig, tmp_path: Path
) -> None:
    files = write(content)
    files = SplitFiles(files.images.rename(tmp_path / "pictures"), files.annotations.rename(tmp_path / "labels.json"))
    base = Path() if relative else tmp_path
    paths = {f"{split}_images": str(base / "pictures") for split in ("train", "val")}
    paths |= {f"{split}_annotations": str(base / "labels.json") for split in ("train", "val")}
    datasets = build_datasets(coco(native, root=str(tmp_path) if relative else None, **paths), seed=0)
    assert datasets.val.annotations_path == files.annotations
    with pytest.raises(ConfigError, match=r"data\.train_images: expected an existing folder, got '.*absent'"):
        build_datasets(coco(native, root=str(tmp_path), **paths | {"train_images": "absent"}), seed=0)
    with pytest.raises(ConfigError, match=r"data\.val_annotations: expected an existing JSON file, got '.*absent'"):
        build_datasets(coco(native, root=str(tmp_path), **paths | {"val_annotations": "absent"}), seed=0)


def test_only_training_is_augmented(content: Content, write: Write, tmp_path: Path) -> None:
    write(content, "train")
    write(content, "val")
    flipped = TransformConfig((10,), 1333, None, 1.0, False)
    datasets = build_datasets(coco(flipped, root=str(tmp_path)), seed=0)
    assert datasets.train[0].image.shape == (3, 10, 20)
    assert datasets.val[0].image.shape == (3, 20, 40)
    assert datasets.train[0].target.boxes[0, 0] == pytest.approx(1 - 14 / 40)
    assert datasets.val[0].target.boxes[0, 0] == pytest.approx(14 / 40)


def test_splits_whose_categories_differ_are_refused(
    content: Content, write: Write, native: TransformConfig, tmp_path: Path
) -> None:
    write(content, "train")
    content["categories"][0]["name"] = "wolf"
    write(content, "val")
    with pytest.raises(DataError, match=r"instances_val\.json: .*id 90 is 'wolf' there and 'dog' here"):
        build_datasets(coco(native, root=str(tmp_path)), seed=0)
    datasets = build_datasets(coco(native, root=str(tmp_path), classes=("cat",)), seed=0)
    assert datasets.val.categories == Categories(("cat",), (5,))


def test_evaluation_needs_no_training_split(
    content: Content, write: Write, native: TransformConfig, tmp_path: Path
) -> None:
    write(content, "val")
    trained = Categories(("bird", "cat", "dog"), (1, 5, 90))
    dataset = build_eval_dataset(coco(native, root=str(tmp_path)), seed=0, categories=trained)
    assert dataset.categories == trained
    assert dataset[0].target.labels.tolist() == [2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "coco"}, r"data\.root: expected the folder"),
        ({"name": "coco", "root": "x", "val_images": "y"}, r"data\.val_images, data\.val_annotations: expected both"),
        ({"name": "coco", "root": "x", "val_images": "y"}, r"\('y', None\): data\.val_annotations is missing$"),
        ({"name": "coco", "train_annotations": "y"}, r"data\.train_images is missing$"),
        ({"name": "coco"}, r"got none of them$"),
        (
            {"name": "coco", "train_images": "x", "train_annotations": "y"},
            r"data\.root: .*; data\.val_images and data\.val_annotations are missing$",
        ),
        ({"name": "shapes", "root": "x"}, r"data\.root: expected null for the data set 'shapes'"),
        ({"name": "shapes", "classes": ()}, r"data\.classes"),
        ({"name": "shapes", "classes": ("ring", "ring")}, r"data\.classes"),
        ({"name": "shapes", "num_workers": -1}, r"data\.num_workers"),
        ({"name": "voc"}, r"data\.name: expected one of 'shapes' or 'coco', got 'voc'"),
        ({"name": "shapes", "shapes": {"num_val": 0}}, r"data\.shapes\.num_val"),
        ({"name": "shapes", "shapes": {"min_side": 200}}, r"data\.shapes\.max_side"),
        ({"name": "shapes", "shapes": {"min_side": 8}}, r"data\.shapes\.min_side"),
    ],
)
def test_settings_that_cannot_work_are_named(settings: Content, message: str) -> None:
    transforms = {"train_sides": [], "max_side": 1333, "eval_side": None, "flip": 0.5, "crop": False}
    with pytest.raises(ConfigError, match=message):
        from_mapping(DataConfig, {"transforms": transforms} | settings, "data")


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"flip": 1.5}, "flip"),
        ({"train_sides": (0,)}, r"train_sides\[0\]"),
        ({"max_side": 700}, "max_side"),
        ({"eval_side": -1}, "eval_side"),
        ({"crop_range": (600, 384)}, "crop_range"),
        ({"crop_resize_sides": ()}, "crop_resize_sides"),
        ({"crop_probability": -0.1}, "crop_probability"),
    ],
)
def test_transform_settings_that_cannot_work_are_named(change: Content, name: str) -> None:
    good = {"train_sides": (480, 800), "max_side": 1333, "eval_side": 800, "flip": 0.5, "crop": True}
    TransformConfig(**good)
    with pytest.raises(ConfigError, match=rf"data\.transforms\.{name}: "):
        TransformConfig(**good | change)


def test_flip_false_is_no_flip(native: TransformConfig) -> None:
    settings = {"train_sides": [], "max_side": 1333, "eval_side": False, "flip": False, "crop": False}
    config = from_mapping(TransformConfig, settings, "data.transforms")
    assert (config.flip, config.eval_side) == (0.0, None)
    with pytest.raises(ConfigError, match=r"data\.transforms\.flip: .*got True"):
        from_mapping(TransformConfig, settings | {"flip": True}, "data.transforms")


@pytest.fixture
def composed(tmp_path: Path) -> Callable[..., DataConfig]:
    """DataConfig as it comes from the groups `data` and `transforms` with command-line overrides."""
    for group in ("data", "transforms"):
        shutil.copytree(CONF / group, tmp_path / "conf" / group)
    (tmp_path / "conf" / "root.yaml").write_text("defaults: [_self_, transforms: native, data: shapes]\n")

    def compose_data(*overrides: str) -> DataConfig:
        with initialize_config_dir(str(tmp_path / "conf"), version_base="1.3"):
            config = compose("root", overrides=list(overrides))
        return from_mapping(DataConfig, OmegaConf.to_container(config.data, resolve=True), "data")

    return compose_data


def test_configs_compose(composed: Callable[..., DataConfig]) -> None:
    shapes = composed()
    assert (shapes.name, shapes.transforms.train_sides, shapes.transforms.eval_side) == ("shapes", (), None)
    small = composed("data=coco", "data.root=/x").transforms
    assert (small.train_sides, small.max_side, small.eval_side) == ((224, 256, 288, 320, 352), 512, 320)
    detr = composed("data=coco", "data.root=/x", "transforms=detr").transforms
    assert detr.train_sides == tuple(range(480, 801, 32))
    assert (detr.crop, detr.crop_resize_sides, detr.crop_range) == (True, (400, 500, 600), (384, 600))
    assert composed("transforms=small").transforms == small
    with pytest.raises(ConfigError, match=r"data\.root"):
        composed("data=coco")
