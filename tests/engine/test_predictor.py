"""A trained detector on images of any kind."""

from pathlib import Path

import numpy as np
import pytest
import torch
from engine_helpers import run_config
from PIL import Image

import litedetr
from litedetr.config import ConfigError
from litedetr.data import Categories, TransformConfig, build_datasets
from litedetr.engine import CheckpointError, Predictor, Ranks, evaluation_batches
from litedetr.engine.batches import LoaderSettings
from litedetr.engine.checkpoint import LoadedDetector
from litedetr.engine.evaluator import Evaluator
from litedetr.models import build_detector

THREE = Categories(("cat", "dog", "emu"), (2, 5, 9))


def predictor_at(cache: Path, side: int | None = None) -> Predictor:
    """With random weights; images are resized to `side`."""
    config = run_config(cache)
    transforms = TransformConfig(train_sides=(), max_side=200, eval_side=side, flip=0.0, crop=False)
    data = config.data.__class__(**{**vars(config.data), "transforms": transforms})
    torch.manual_seed(0)
    model = build_detector(config.model, len(THREE)).eval()
    return Predictor(
        LoadedDetector(model, THREE, config.__class__(**{**vars(config), "data": data})), torch.device("cpu")
    )


@pytest.fixture
def predictor(cache: Path) -> Predictor:
    return predictor_at(cache)


def picture(width: int = 64, height: int = 48, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def same(a, b) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("scores", "labels", "boxes"))


def test_every_kind_of_image_gives_the_same(predictor: Predictor, tmp_path: Path):
    image = picture()
    array = np.asarray(image)
    image.save(tmp_path / "image.png")
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    kinds = [image, array, array / 255, tensor, tensor / 255, tmp_path / "image.png", str(tmp_path / "image.png")]
    expected = predictor.predict(image, threshold=0)[0]
    assert len(expected) == 15  # five tokens, three classes
    for kind in kinds:
        assert same(predictor.predict([kind], threshold=0)[0], expected), type(kind)
        assert same(predictor.predict(kind, threshold=0)[0], expected), type(kind)
    assert len(predictor.predict(np.stack([array, array]))) == 2


def test_grey_images_are_taken(predictor: Predictor):
    grey = picture().convert("L")
    expected = predictor.predict(grey, threshold=0)[0]
    tensor = torch.from_numpy(np.array(grey))
    for kind in (np.asarray(grey), tensor, tensor.unsqueeze(0)):
        assert same(predictor.predict([kind], threshold=0)[0], expected)


def test_boxes_are_in_original_pixels_whatever_the_resizing(cache: Path):
    """The same image at twice the size: resized to the same pixels, boxes twice as large."""
    predictor, image = predictor_at(cache, side=48), picture()
    large = image.resize((128, 96), Image.Resampling.NEAREST)
    small = large.resize(image.size, Image.Resampling.BILINEAR)
    small_found, large_found = (predictor.predict(x, threshold=0)[0] for x in (small, large))
    assert torch.allclose(large_found.boxes, 2 * small_found.boxes, atol=1e-3)


def test_images_are_batched_by_size_and_come_back_in_order(predictor: Predictor):
    sizes = [(64, 48), (48, 64), (64, 48), (64, 48), (48, 64)]
    assert predictor.batches([(h, w) for w, h in sizes], batch_size=2) == [[0, 2], [1, 4], [3]]
    images = [picture(*size, seed) for seed, size in enumerate(sizes)]
    together = predictor.predict(images, threshold=0, batch_size=2)
    for image, found in zip(images, together, strict=True):
        alone = predictor.predict(image, threshold=0)[0]
        assert torch.allclose(found.scores, alone.scores, atol=1e-5)
        assert torch.allclose(found.boxes, alone.boxes, atol=1e-3)


def test_threshold_and_most_detections(predictor: Predictor):
    everything = predictor.predict(picture(), threshold=0)[0]
    limit = everything.scores[5].item()
    assert len(predictor.predict(picture(), threshold=limit)[0]) == (everything.scores >= limit).sum()
    assert same(predictor.predict(picture(), threshold=0, max_detections=3)[0], everything.best(3))
    assert len(predictor.predict(picture(), threshold=1)[0]) == 0
    assert predictor.predict([]) == []


def test_it_finds_what_the_evaluation_finds(cache: Path):
    config = run_config(cache)
    data = build_datasets(config.data, 0).val
    torch.manual_seed(0)
    model = build_detector(config.model, len(data.categories)).eval()
    predictor = Predictor(LoadedDetector(model, data.categories, config), torch.device("cpu"))
    ranks = Ranks(torch.device("cpu"))
    evaluation = Evaluator(data, evaluation_batches(data, LoaderSettings(1, 0, 0), ranks), "fp32", ranks)(model)
    for image_id in data.image_ids:
        rows = evaluation.detections[evaluation.detections["image_id"] == image_id]
        found = predictor.predict(data.image_path(image_id), threshold=0, max_detections=300)[0]
        assert np.allclose(rows["score"], found.scores, atol=1e-6)
        assert np.allclose(rows["bbox"][:, :2], found.boxes[:, :2], atol=1e-3)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 2), np.uint8), r"images\[0\]: expected an array .* got the shape \(4, 4, 2\)"),
        (torch.zeros(4, 4, 3), r"images\[0\]: expected a tensor \(3, H, W\)"),
        (np.zeros((0, 4, 3), np.uint8), "with at least one pixel"),
        (np.full((4, 4, 3), -1.5), r"floats in \[0, 1\] .*, got values from -1.5 to -1.5"),
        (np.full((4, 4, 3), np.nan), r"floats in \[0, 1\]"),
        (np.zeros((4, 4, 3), np.int64), "expected uint8 or floats .*, got int64"),
        (torch.zeros(3, 4, 4, device="meta"), r"images\[0\]: expected a dense tensor of plain values, got .* on meta"),
        (torch.zeros(3, 4, 4).to_sparse(), r"images\[0\]: expected a dense tensor of plain values, got torch.sparse"),
        (Image.new("RGB", (0, 4)), r"images\[0\]: expected at least one pixel, got the size \(0, 4\)"),
        (Image.new("F", (4, 4)), r"images\[0\]: cannot be read as an image: floating-point pixels"),
        (7, r"images\[0\]: expected a PIL image, an array, a tensor or a path, got int"),
        (None, r"images\[0\]: expected a PIL image, an array, a tensor or a path, got NoneType"),
    ],
)
def test_what_is_no_image_is_named(predictor: Predictor, image: object, message: str):
    for given in ([image], image):
        with pytest.raises(ValueError, match=message):
            predictor.predict(given)


def test_an_opened_file_that_turns_out_damaged_is_named(predictor: Predictor, tmp_path: Path):
    picture().save(tmp_path / "image.jpg")
    whole = (tmp_path / "image.jpg").read_bytes()
    (tmp_path / "image.jpg").write_bytes(whole[: len(whole) // 2])
    with Image.open(tmp_path / "image.jpg") as opened, pytest.raises(ValueError, match=r"images\[1\]: .*truncated"):
        predictor.predict([picture(), opened])


@pytest.mark.parametrize("limit", [{"threshold": 1.5}, {"max_detections": 0}, {"batch_size": 0}])
def test_limits_are_checked(predictor: Predictor, limit: dict[str, float]):
    with pytest.raises(ConfigError, match=next(iter(limit))):
        predictor.predict(picture(), **limit)


def test_the_front_door_names_a_missing_file(tmp_path: Path):
    with pytest.raises(CheckpointError, match="none.pt: no such checkpoint"):
        litedetr.load(tmp_path / "none.pt")
