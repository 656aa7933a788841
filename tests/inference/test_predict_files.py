"""scripts/predict.py, and the files it writes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_helpers import run_config, train
from PIL import Image
from test_scripts import run

from litedetr.data import Categories, ImageFiles
from litedetr.data.coco_json import CocoJson
from litedetr.engine.distributed import Ranks
from litedetr.inference.predict_files import Prediction, PredictionWriter
from litedetr.inference.predictor import Predictor
from litedetr.structures import Detections


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train(run_config(cache, schedule={"max_epochs": 1, "milestones": ()}), folder, Ranks(torch.device("cpu")))
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "inner").mkdir(parents=True)
    for seed, (name, size) in enumerate([("b.jpg", (64, 48)), ("a.png", (48, 64)), ("inner/c.webp", (64, 48))]):
        pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


def test_pictures_and_a_coco_file_of_everything_found(trained: Path, photos: Path, tmp_path: Path):
    arguments = [f"checkpoint={trained}", f"source='{photos}/**/*.*'", f"output={tmp_path}/out", "threshold=0.0"]
    result = run(tmp_path, "predict", *arguments, "max_detections=4", "device=cpu", "batch_size=2")
    assert result.returncode == 0, result.stderr
    assert "3 images, objects of score >= 0:" in result.stdout
    written = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")}
    assert written == {"predictions.json", "a.png", "b.jpg", "inner/c.webp.png"}

    coco = CocoJson.read(tmp_path / "out" / "predictions.json")  # fit to train on
    assert [image["file_name"] for image in coco.images] == ["a.png", "b.jpg", "inner/c.webp"]
    predictor = Predictor.load(trained, "cpu")
    for image in coco.images:
        found = predictor.predict(photos / image["file_name"], threshold=0, max_detections=4)[0]
        entries = [entry for entry in coco.annotations if entry["image_id"] == image["id"]]
        assert np.allclose([entry["score"] for entry in entries], found.scores, atol=1e-5)
        ids = [predictor.categories.ids[label] for label in found.labels]
        assert [entry["category_id"] for entry in entries] == ids


def test_a_damaged_file_is_reported_and_the_others_are_kept(trained: Path, photos: Path, tmp_path: Path):
    (photos / "header.jpg").write_bytes(b"nothing")
    whole = (photos / "b.jpg").read_bytes()
    (photos / "tail.jpg").write_bytes(whole[: len(whole) // 2])
    result = run(tmp_path, "predict", f"checkpoint={trained}", f"source={photos}", "output=out", "pictures=false")
    assert result.returncode == 2
    assert "error: 2 of 4 files were left out" in result.stderr
    assert "header.jpg: cannot be read as an image" in result.stderr
    assert "tail.jpg: cannot be read as an image" in result.stderr
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["a.png", "b.jpg"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["predictions.json"]


def test_mistakes_are_told_before_any_work(trained: Path, photos: Path, tmp_path: Path):
    before = sorted(photos.rglob("*"))
    for settings, message in (
        ([f"source={photos}", f"output={photos}"], "error: output: expected another folder than the images'"),
        (["source=nowhere"], "error: source: expected an image, a folder or a pattern"),
        ([f"source={photos}", "threshold=2"], "error: threshold: expected at most 1, got 2"),
    ):
        result = run(tmp_path, "predict", f"checkpoint={trained}", *settings)
        assert result.returncode == 2
        assert message in result.stderr
        assert "Traceback" not in result.stderr
    assert sorted(photos.rglob("*")) == before


def test_a_picture_too_long_for_a_jpeg_becomes_a_png(tmp_path: Path):
    path = tmp_path / "strip.jpg"  # by its name alone
    writer = PredictionWriter(tmp_path / "out", ImageFiles(tmp_path, (path,)), Categories(("cat",), (1,)), True)
    nothing = Detections(torch.zeros(0), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
    writer.add(Prediction(path, Image.new("RGB", (65501, 1)), nothing))
    assert [file.name for file in writer.folder.iterdir()] == ["strip.jpg.png"]
