"""A trained detector on images of any kind."""

import io
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_helpers import run_config
from PIL import Image
from torch.masked import masked_tensor

import litedetr
from litedetr.data import Categories, DataError, TransformConfig, build_datasets, evaluation_pixels
from litedetr.engine.checkpoint import CheckpointError, LoadedDetector
from litedetr.engine.detect import detect
from litedetr.engine.distributed import Ranks
from litedetr.engine.evaluation_loop import Evaluator
from litedetr.engine.loader import LoaderSettings, build_loader
from litedetr.inference.predictor import Predictor, batches_by_key
from litedetr.models import build_detector
from litedetr.settings import ConfigError
from litedetr.structures import Detections, ImageBatch

THREE = Categories(("cat", "dog", "emu"), (2, 5, 9))


def loaded_at(cache: Path, side: int | None = None) -> LoadedDetector:
    """With random weights; images are resized to `side`."""
    config = run_config(cache)
    transforms = TransformConfig(train_sides=(), max_side=200, eval_side=side, flip=0.0, crop=False)
    torch.manual_seed(0)
    model = build_detector(config.model, len(THREE)).eval()
    return LoadedDetector(model, THREE, replace(config, data=replace(config.data, transforms=transforms)))


def predictor_at(cache: Path, side: int | None = None) -> Predictor:
    return Predictor(loaded_at(cache, side), torch.device("cpu"))


@pytest.fixture
def predictor(cache: Path) -> Predictor:
    return predictor_at(cache)


def picture(width: int = 64, height: int = 48, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


class Pipe(io.BytesIO):
    """A file that is read once and has no way back."""

    def seekable(self) -> bool:
        return False

    def seek(self, *place: int) -> int:
        raise io.UnsupportedOperation("seek")


def same(a, b) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("scores", "labels", "boxes"))


def test_every_kind_of_image_gives_the_same(predictor: Predictor, tmp_path: Path):
    image = picture()
    array = np.asarray(image)
    image.save(tmp_path / "image.png")
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    path = tmp_path / "image.png"
    data = path.read_bytes()
    kinds = [image, array, array / 255, tensor, tensor / 255, path, str(path)]
    kinds += [data, bytearray(data), memoryview(data), io.BytesIO(data)]
    expected = predictor.predict(image, threshold=0)[0]
    assert len(expected) == 15  # five tokens, three classes
    for kind in kinds:
        assert same(predictor.predict([kind], threshold=0)[0], expected), type(kind)
        assert same(predictor.predict(kind, threshold=0)[0], expected), type(kind)
    assert len(predictor.predict(np.stack([array, array]))) == 2
    at_its_end = io.BytesIO()
    image.save(at_its_end, "png")
    for file in (at_its_end, path.open("rb"), path.open("rb", buffering=0), Pipe(data)):
        with file:
            assert same(predictor.predict(file, threshold=0)[0], expected), file


def test_paths_of_bytes_and_negated_tensors_are_taken(predictor: Predictor, tmp_path: Path):
    picture().save(tmp_path / "image.png")
    expected = predictor.predict(picture(), threshold=0)[0]
    with os.scandir(os.fsencode(tmp_path)) as entries:
        assert same(predictor.predict(list(entries), threshold=0)[0], expected)
    values = torch.from_numpy(np.asarray(picture(), np.float32) / 255).movedim(-1, 0)
    negated = torch.complex(values, -values).conj().imag
    assert negated.is_neg()
    assert same(predictor.predict(negated, threshold=0)[0], expected)


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
    batches = batches_by_key(range(5), lambda number: predictor.resized(sizes[number][::-1]), 2)
    assert list(batches) == [[0, 2], [1, 4], [3]]
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
    evaluation = Evaluator(data, build_loader(data, LoaderSettings(1, 0, 0), ranks), "fp32", ranks)(model)
    for image_id in data.image_ids:
        rows = evaluation.detections[evaluation.detections["image_id"] == image_id]
        found = predictor.predict(data.image_path(image_id), threshold=0, max_detections=300)[0]
        width, height = data.load_image(image_id).size
        assert np.allclose(rows["score"], found.scores, atol=1e-6)
        assert np.allclose(np.clip(rows["bbox"][:, :2], 0, [width, height]), found.boxes[:, :2], atol=1e-3)


def closed() -> io.BytesIO:
    file = io.BytesIO()
    file.close()
    return file


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
        (
            masked_tensor(torch.zeros(3, 4, 4), torch.ones(3, 4, 4) > 0),
            r"images\[0\]: expected a dense .* got a MaskedTensor",
        ),
        (Image.new("RGB", (0, 4)), r"images\[0\]: expected at least one pixel, got the size \(0, 4\)"),
        (Image.new("F", (4, 4)), r"images\[0\]: cannot be read as an image: floating-point pixels"),
        (7, r"images\[0\]: expected a PIL image, an array, a tensor, a path, .*, got int"),
        (None, r"images\[0\]: expected a PIL image, .*, got NoneType"),
        ({"image": 1}, r"images\[0\]: expected a PIL image, .*, got dict"),
        (
            "https://example.org/a.jpg",
            r"images\[0\]: expected a file of this machine, got the address https://.*download",
        ),
        (Path("s3://bucket/a.jpg"), r"images\[0\]: expected a file of this machine, got the address s3:/bucket"),
        ("data:image/png;base64," + "A" * 10**5, r"images\[0\]: expected a file of this machine.{,150}$"),
        ("A" * 10**5, r"images\[0\]: expected the path of an image, got .{,150}$"),
        ("a\0b", r"images\[0\]: expected the path of an image, got 'a\\x00b'|a\0b: cannot be read"),
        (Path(__file__).parent, r"images\[0\]: expected an image file, got the folder .*inference"),
        ("~nobody-of-this-name/a.jpg", "~nobody-of-this-name is the home of no user"),
        ("none.jpg", "none.jpg: cannot be read as an image: .*No such file"),
        (b"no image", r"images\[0\]: cannot be read as an image: it is of no format"),
        (io.StringIO("text"), r"images\[0\]: expected a file opened in binary mode"),
        (Path(__file__).open(), r"images\[0\]: expected a file opened in binary mode"),  # noqa: SIM115
        (closed(), r"images\[0\]: expected a file that is open to be read, .*closed file"),
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


WRONG = (None, True, "a", "", float("nan"), float("inf"), -1, [1], torch.tensor(1.0), 10**400)


def test_a_file_that_has_a_size_but_no_pixels_is_named(predictor: Predictor, tmp_path: Path):
    picture().save(tmp_path / "whole.jpg")
    data = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"half.jpg: cannot be read as an image: .*truncated"):
        predictor.predict([tmp_path / "whole.jpg", tmp_path / "half.jpg"])
    with pytest.raises(DataError, match=r"images\[1\]: cannot be read as an image: .*truncated"):
        predictor.predict([data, data[: len(data) // 2]])


def test_boxes_are_clipped_to_the_image_and_what_lies_outside_is_left_out():
    boxes = torch.tensor(
        [[-24.0, 5, 70, 60], [10, 10, 20, 20], [-9, 3, 0, 9], [64, 0, 70, 9], [1, 1, 1, 5], [3, -1, 5, 1]]
    )
    found = Detections(torch.linspace(0.9, 0.4, 6), torch.arange(6), boxes).within((48, 64))
    assert found.labels.tolist() == [0, 1, 5]
    assert found.boxes.tolist() == [[0, 5, 64, 48], [10, 10, 20, 20], [3, 0, 5, 1]]
    assert found.scores.tolist() == torch.linspace(0.9, 0.4, 6)[[0, 1, 5]].tolist()


def test_detections_lie_in_their_images(cache: Path):
    """Of a detector whose boxes are all as large as the image, so that most reach outside."""
    predictor = predictor_at(cache, side=32)
    for head in predictor.model.modules():
        if isinstance(head, torch.nn.Linear) and head.out_features == 4:
            torch.nn.init.constant_(head.bias, 0.0)
            head.bias.data[2:] = 3.0
    images = [picture(), picture(31, 97)]
    unclipped = detect(
        predictor.model,
        ImageBatch.from_images([evaluation_pixels(images[0], predictor.transforms)]),
        [(48, 64)],
        "fp32",
    )[0].boxes
    assert (unclipped.min() < -1).item()
    for image, found in zip(images, predictor.predict(images, threshold=0), strict=True):
        x1, y1, x2, y2 = found.boxes.unbind(1)
        assert len(found) > 0
        assert ((x1 >= 0) & (x1 < x2) & (x2 <= image.width)).all()
        assert ((y1 >= 0) & (y1 < y2) & (y2 <= image.height)).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [("threshold", 1.5), ("max_detections", 0), ("batch_size", 0), ("max_detections", 1.5), ("batch_size", "2")]
    + [(name, value) for name in ("threshold", "max_detections", "batch_size") for value in WRONG],
)
def test_limits_are_checked(predictor: Predictor, name: str, value: object):
    for given in (picture(), []):
        with pytest.raises(ConfigError, match=f"^{name}: expected .*, got "):
            predictor.predict(given, **{name: value})


def test_numbers_of_numpy_are_numbers(predictor: Predictor):
    limits = {"threshold": np.float32(0.25), "max_detections": np.int64(3), "batch_size": np.uint8(2)}
    assert same(predictor.predict(picture(), **limits)[0], predictor.predict(picture(), 0.25, 3, 2)[0])


def test_the_front_door_names_a_missing_file(tmp_path: Path):
    with pytest.raises(CheckpointError, match="none.pt: no such checkpoint"):
        litedetr.load(tmp_path / "none.pt")
