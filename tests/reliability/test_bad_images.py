"""Images of any kind, whole and damaged: the pixels that were put in, or one clear error."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from drawn_images import Stored, cut_images, flipped_images, rubbish, stored_images
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from test_predictor import predictor_at

from litedetr.data import CocoDetection, DataError, TransformConfig, find_images, read_image, read_size
from litedetr.data.coco_json import CocoJson
from litedetr.data.dataset_layout import SplitFiles
from litedetr.inference.image_inputs import as_image_input
from litedetr.inference.predict_files import PredictConfig, PredictionWriter, Unreadable, predict_files
from litedetr.inference.predictor import Predictor
from litedetr.structures import Detections

NATIVE = TransformConfig(train_sides=(), max_side=8000, eval_side=None, flip=0.5, crop=False)
TIMES = {"whole": 120, "cut": 100, "flipped": 60, "rubbish": 40, "given": 70, "folders": 15}
FILES = 3  # in a folder, at most


@pytest.fixture(scope="module")
def predictor(cache: Path) -> Predictor:
    return predictor_at(cache)


def written(folder: Path, data: bytes, name: str = "image.png") -> Path:
    """The suffix is wrong for most files, as it may be."""
    (folder / name).write_bytes(data)
    return folder / name


def pixels_or_none(path: Path) -> np.ndarray | None:
    """None where a DataError names the file."""
    try:
        image = read_image(path)
    except DataError as error:
        assert str(error).startswith(f"{path}: ")  # noqa: PT017
        return None
    assert image.mode == "RGB"
    assert read_size(path) == image.size[::-1]
    return np.asarray(image)


def check_detections(found: list[Detections], number: int) -> None:
    assert len(found) == number
    assert all(len(one) > 0 and torch.isfinite(one.boxes).all() for one in found)
    assert all(((one.scores >= 0) & (one.scores <= 1)).all() for one in found)


def check_whole(stored: Stored, folder: Path, predictor: Predictor) -> str:
    path = written(folder, stored.data)
    assert stored.is_shown_by(pixels_or_none(path)), stored.label
    check_detections(predictor.predict(path, threshold=0), 1)
    check_as_data_set(stored, folder, path)
    return stored.label.split()[0]


def check_as_data_set(stored: Stored, folder: Path, path: Path) -> None:
    height, width = stored.picture.shape[:2]
    content = {
        "images": [{"id": 3, "file_name": path.name, "width": width, "height": height}],
        "annotations": [{"id": 1, "image_id": 3, "category_id": 1, "bbox": [0, 0, width, height / 2]}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    files = SplitFiles(folder, folder / "labels.json")
    files.annotations.write_text(json.dumps(content))
    for training in (False, True):
        sample = CocoDetection(files, NATIVE, training=training)[0]
        assert sample.image.shape == (3, height, width)
        assert sample.target.boxes.tolist() == [[0.5, 0.25, 1, 0.5]]
        assert torch.isfinite(sample.image).all()


def check_cut(pair: tuple[Stored, bytes], folder: Path, _: Predictor) -> str:
    """Refused, or all there, as where only the end mark is missing; never half grey."""
    stored, data = pair
    pixels = pixels_or_none(written(folder, data))
    assert pixels is None or stored.is_shown_by(pixels), stored.label
    return "refused" if pixels is None else "whole all the same"


def check_flipped(pair: tuple[Stored, bytes], folder: Path, _: Predictor) -> str:
    """Refused, or an image with the size that its header says; Pillow cannot tell a changed pixel."""
    stored, data = pair
    pixels = pixels_or_none(written(folder, data))
    same = pixels is not None and stored.is_shown_by(pixels)
    return "refused" if pixels is None else "whole all the same" if same else "other pixels"


def check_rubbish(data: bytes, folder: Path, predictor: Predictor) -> str:
    path = written(folder, data)
    if pixels_or_none(path) is not None:
        return "an image"
    with pytest.raises(DataError, match="cannot be read as an image"):
        predictor.predict([path])
    return "refused"


SHAPES = ((5, 7, 3), (5, 7), (5, 7, 1), (1, 1), (3, 5, 7), (5, 7, 4), (0, 7, 3), (7,), (1, 5, 7))
TAKEN = ("uint8", "float32", "float64", "float16")
DTYPES = (*TAKEN * 3, "int64", "bool", "complex64", "U3", "object", "M8[s]", ">f4")


@st.composite
def things(draw: Any) -> tuple[object, np.ndarray | None]:
    """Whatever may come as an image, and its (H, W, 3) uint8 pixels, None where it is none."""
    shape = draw(st.sampled_from(SHAPES))
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    values = st.integers(0, 255) if dtype == np.uint8 else None
    if dtype.kind == "f":
        usual = st.integers(0, 255).map(lambda level: dtype.type(level / 255))
        values = draw(st.sampled_from((usual, usual, st.sampled_from((0.0, 1.0, -0.5, 1.5, np.nan, np.inf)))))
        values = values.map(dtype.type)
    array = draw(arrays.arrays(dtype, shape, elements=values)) if dtype.kind != "O" else np.full(shape, None)
    pixels = _expected(array, channels_last=True)
    as_tensor = dtype.kind in "fiubc" and dtype.isnative and draw(st.booleans())
    if not as_tensor:
        return array, pixels
    tensor = torch.from_numpy(array)
    return tensor, _expected(array, channels_last=False)


def _expected(array: np.ndarray, channels_last: bool) -> np.ndarray | None:
    """By the words of `Predictor.predict`."""
    if array.dtype.kind == "f":
        inside = np.isfinite(array).all() and (array >= 0).all() and (array <= 1).all()
        array = np.rint(array.astype(np.float64) * 255).astype(np.uint8) if inside else array
    if array.ndim == 3 and not channels_last:
        array = array.transpose(1, 2, 0)
    if array.ndim == 2:
        array = array[..., None]
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] not in (1, 3) or array.size == 0:
        return None
    return np.broadcast_to(array, (*array.shape[:2], 3))


def check_given(thing: tuple[object, np.ndarray | None], _: Path, predictor: Predictor) -> str:
    image, pixels = thing
    if pixels is None:
        with pytest.raises(ValueError, match=r"images\[1\]: expected"):
            predictor.predict([np.zeros((2, 2), np.uint8), image])
        return "refused"
    found = as_image_input(image, 0)
    assert found.size == pixels.shape[:2]
    assert np.abs(np.asarray(found.read()).astype(int) - pixels).max() <= (image.dtype in (np.float16, torch.float16))
    check_detections(predictor.predict([image], threshold=0), 1)
    return "taken"


def check_folder(datas: list[bytes], folder: Path, predictor: Predictor) -> str:
    """As scripts/predict.py goes through a folder: every file is predicted on or named."""
    with TemporaryDirectory(dir=folder) as name:
        photos = Path(name)
        paths = {written(photos, data, f"{number}.jpg") for number, data in enumerate(datas)}
        config = PredictConfig("none.pt", name, str(photos / "out"), threshold=0.0, max_detections=3, batch_size=2)
        files = find_images(name)
        writer = PredictionWriter(config.folder, files, predictor.categories, pictures=True)
        items = list(predict_files(predictor, files, config))
        good = [item for item in items if not isinstance(item, Unreadable)]
        for item in good:
            writer.add(item)
        writer.close()
        assert {item.path for item in items} == paths
        assert len(items) == len(paths)
        pictures = {path.name.removesuffix(".png") for path in config.folder.glob("*.jpg*")}
        assert pictures == {item.path.name for item in good}
        if good:
            coco = CocoJson.read(writer.json)
            assert [image["file_name"] for image in coco.images] == sorted(item.path.name for item in good)
            assert len(coco.annotations) == 3 * len(good)
    return f"{len(good)} of {len(paths)} files predicted on"


CHECKS = {
    "whole": (stored_images(), check_whole),
    "cut": (cut_images(), check_cut),
    "flipped": (flipped_images(), check_flipped),
    "rubbish": (rubbish(), check_rubbish),
    "given": (things(), check_given),
    "folders": (
        st.lists(st.one_of(stored_images().map(lambda stored: stored.data), rubbish()), min_size=2, max_size=FILES),
        check_folder,
    ),
}


def check_many(kind: str, factor: int, folder: Path, predictor: Predictor) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    cases, check = CHECKS[kind]

    @settings(max_examples=factor * TIMES[kind])
    @given(cases)
    def run(case: Any) -> None:
        outcomes[check(case, folder, predictor)] += 1

    run()
    print(f"\n{kind}: {outcomes.total()} cases: " + ", ".join(f"{name} {n}" for name, n in outcomes.most_common()))
    return outcomes


@pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", CHECKS)
def test_every_image_gives_its_pixels_or_one_clear_error(kind: str, tmp_path: Path, predictor: Predictor) -> None:
    assert len(check_many(kind, 1, tmp_path, predictor)) > 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", CHECKS)
def test_many_more_images(kind: str, tmp_path: Path, predictor: Predictor) -> None:
    check_many(kind, 10, tmp_path, predictor)
