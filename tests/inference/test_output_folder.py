"""Where the results of each source go, what of them stays, and that no prediction reads what one has drawn."""

import json
from pathlib import Path

import pytest
import torch
from engine_helpers import run_config, train
from test_predictor import picture

from litedetr.data import DataError
from litedetr.engine.distributed import Ranks
from litedetr.inference.output_folder import DESCRIPTION
from litedetr.inference.predict_files import PredictConfig, Unreadable, open_prediction, predict_files
from litedetr.settings import ConfigError


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train(run_config(cache, schedule={"max_epochs": 1, "milestones": ()}), folder, Ranks(torch.device("cpu")))
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A run folder of each test's own."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best.pt").write_bytes((trained / "best.pt").read_bytes())
    return tmp_path / "run"


def draw(folder: Path, *names: str) -> Path:
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture(seed=seed).save(folder / name)
    return folder


def predict(checkpoint: Path, source: object, complete: bool = True, **settings: object) -> Path:
    """As scripts/predict.py does; the folder of the results."""
    config = PredictConfig(checkpoint, str(source), threshold=0.0, device="cpu", **settings)
    predictor, files, writer = open_prediction(config)
    for item in predict_files(predictor, files, config):
        assert not isinstance(item, Unreadable)
        writer.add(item)
        if not complete:
            break
    writer.close(complete)
    return writer.folder


def images_of(folder: Path) -> list[str]:
    return [image["file_name"] for image in json.loads((folder / "predictions.json").read_text())["images"]]


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_each_source_has_a_folder_of_its_name(run: Path, tmp_path: Path):
    photos = draw(tmp_path / "photos", "a.png", "b.png")
    others = draw(tmp_path / "elsewhere" / "photos", "b.png", "c.png")
    first, second, third = (predict(run, source) for source in (photos, others, f"{photos}/*.png"))
    assert first == run / "predictions" / "photos"
    assert predict(run, photos / "a.png") == run / "predictions" / "a.png"
    for folder in (second, third):
        assert folder.parent == run / "predictions"
        assert folder.name.startswith("photos-")
    assert len({first, second, third}) == 3
    assert [images_of(folder) for folder in (first, second)] == [["a.png", "b.png"], ["b.png", "c.png"]]
    assert files_of(second) == {"predictions.json", "b.png", "c.png"}
    before = (first / "b.png").read_bytes()
    assert predict(run, others) == second  # again: the same folder
    assert (first / "b.png").read_bytes() == before


@pytest.mark.parametrize("output", [None, "found"])
def test_a_source_replaces_its_own_results_and_no_others_files(run: Path, tmp_path: Path, output: str | None):
    settings = {} if output is None else {"output": str(tmp_path / output)}
    photos = draw(tmp_path / "photos", "a.png", "inner/b.png", "c.tif")
    folder = predict(run, f"{photos}/**/*.*", **settings)
    assert files_of(folder) == {"predictions.json", "a.png", "inner/b.png", "c.tif.png"}
    (folder / "notes.txt").write_text("mine")
    (photos / "inner" / "b.png").unlink()
    (photos / "c.tif").unlink()
    draw(photos, "d.png")
    predict(run, f"{photos}/**/*.*", complete=False, **settings)  # interrupted: nothing is removed
    assert files_of(folder) == {"predictions.json", "notes.txt", "a.png", "inner/b.png", "c.tif.png"}
    assert images_of(folder) == ["a.png"]
    predict(run, f"{photos}/**/*.*", **settings)
    assert files_of(folder) == {"predictions.json", "notes.txt", "a.png", "d.png"}
    predict(run, f"{photos}/**/*.*", pictures=False, **settings)
    assert files_of(folder) == {"predictions.json", "notes.txt"}


def test_an_interruption_before_the_first_image_leaves_earlier_results(run: Path, tmp_path: Path):
    photos = draw(tmp_path / "photos", "a.png", "b.png")
    folder = predict(run, photos)
    *_, writer = open_prediction(PredictConfig(str(run), str(photos), device="cpu"))
    writer.close(complete=False)
    assert images_of(folder) == ["a.png", "b.png"]
    assert files_of(folder) == {"predictions.json", "a.png", "b.png"}


def test_names_in_a_changed_json_remove_nothing_outside(run: Path, tmp_path: Path):
    photos = draw(tmp_path / "photos", "a.png")
    folder = predict(run, photos)
    content = json.loads((folder / "predictions.json").read_text())
    content["info"]["pictures"] += ["../../../photos/a.png", str(photos / "a.png"), "."]
    (folder / "predictions.json").write_text(json.dumps(content))
    predict(run, photos)
    assert (photos / "a.png").exists()
    assert files_of(folder) == {"predictions.json", "a.png"}


def test_images_whose_pictures_would_have_one_name_have_two(run: Path, tmp_path: Path):
    photos = draw(tmp_path / "photos", "a.tif", "a.tif.png")
    assert files_of(predict(run, photos)) == {"predictions.json", "a.tif.png", "a.tif.png.png"}


@pytest.mark.parametrize("link", [False, True])
def test_a_pattern_leaves_out_the_pictures_of_predictions(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, link: bool
):
    photos = draw(tmp_path / "photos", "a.png", "inner/b.png")
    source = f"{photos}/**/*.png"
    if link:
        (tmp_path / "link").symlink_to(photos)
        source = f"{tmp_path}/link/**/*.png"
    for name in ("found", "earlier/found", "found"):
        caplog.clear()
        folder = predict(run, source, output=str(photos / name))
        assert images_of(folder) == ["a.png", "inner/b.png"]
    assert "source: left out 4 pictures that predictions drew" in caplog.text
    killed = {"info": {"description": DESCRIPTION}}  # before it could say which pictures it has drawn
    (photos / "found" / "predictions.json").write_text(json.dumps(killed))
    assert images_of(predict(run, source, output=str(photos / "found"))) == ["a.png", "inner/b.png"]
    assert images_of(predict(run, f"{photos}/inner", output=str(photos / "found" / "x"))) == ["b.png"]


def test_pictures_are_not_drawn_among_other_images_of_the_source(run: Path, tmp_path: Path):
    photos = draw(tmp_path / "photos", "a.png", "best/a.png")
    before = (photos / "best" / "a.png").read_bytes()
    with pytest.raises(ConfigError, match=r"^output: expected a folder without images of the source.*best.*a\.png"):
        predict(run, f"{photos}/**", output=str(photos / "best"))
    assert (photos / "best" / "a.png").read_bytes() == before
    assert files_of(photos) == {"a.png", "best/a.png"}
    assert images_of(predict(run, f"{photos}/*", output=str(photos / "best" / "found"))) == ["a.png"]


def test_pictures_that_are_asked_for_are_predicted_on(run: Path, tmp_path: Path):
    photos = draw(tmp_path / "photos", "a.png")
    folder = predict(run, photos)
    with pytest.raises(
        DataError, match="source: expected images, found only pictures that predictions drew in .*photos"
    ):
        predict(run, folder, output=str(tmp_path / "again"))
    assert images_of(predict(run, folder / "a.png", output=str(tmp_path / "again"))) == ["a.png"]


@pytest.mark.parametrize("content", ["{", "[]", '{"info": 3}', '{"info": {"description": "a tool"}}', "[" * 10**5])
def test_another_programs_json_says_nothing_of_pictures(run: Path, tmp_path: Path, content: str):
    photos = draw(tmp_path / "photos", "a.png")
    (photos / "predictions.json").write_text(content)
    assert images_of(predict(run, photos)) == ["a.png"]
    (tmp_path / "run" / "predictions" / "photos" / "predictions.json").write_text(content)
    assert predict(run, photos).name.startswith("photos-")  # whose the folder is nobody knows


def test_all_that_was_readable_is_written(run: Path, tmp_path: Path):
    photos = draw(tmp_path / "photos", "a.png")
    (photos / "b.png").write_bytes(b"no image")
    (photos / "stub.jpg").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(64))  # HDF5: Pillow opens it, and cannot decode it
    (photos / "c.jpg").symlink_to("nowhere.jpg")
    whole = (photos / "a.png").read_bytes()
    (photos / "d.png").write_bytes(whole[: len(whole) // 2])
    config = PredictConfig(run, f"{photos}/*", device="cpu", pictures=False)
    predictor, files, writer = open_prediction(config)
    items = list(predict_files(predictor, files, config))
    for item in items:
        if not isinstance(item, Unreadable):
            writer.add(item)
    writer.close()
    assert images_of(writer.folder) == ["a.png"]
    assert {item.path.name for item in items if isinstance(item, Unreadable)} == {"b.png", "d.png", "stub.jpg"}
