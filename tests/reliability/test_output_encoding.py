"""A class named 猫 in a folder with an accent, where the output knows neither."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_helpers import run_config, train
from PIL import Image
from test_scripts import NEEDS_EXPORT, command

from litedetr.data import DataConfig
from litedetr.engine.distributed import Ranks
from litedetr.engine.run_config import RunConfig

CAT = "猫"
SMALLEST = ["encoder.feedforward=16", "decoder.num_layers=1", "backbone.width=8"]
ENVIRONMENTS = {
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "ascii": {"PYTHONIOENCODING": "ascii:strict"},
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": ""},
}


def write_set(root: Path) -> Path:
    """Four noisy images, an object each."""
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        for number in range(4):
            pixels = torch.randint(256, (48, 64, 3), dtype=torch.uint8).numpy()
            Image.fromarray(pixels).save(root / split / f"{number}.png")
        entry = {"category_id": 7, "bbox": [4, 5, 20, 30], "area": 600, "iscrowd": 0}
        content = {
            "images": [{"id": n, "file_name": f"{n}.png", "width": 64, "height": 48} for n in range(4)],
            "annotations": [entry | {"id": n, "image_id": n} for n in range(4)],
            "categories": [{"id": 7, "name": CAT}],
        }
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content), encoding="utf-8")
    return root


def config_of(root: Path) -> RunConfig:
    usual = run_config(root, schedule={"max_epochs": 1, "milestones": ()})
    return replace(usual, data=DataConfig("coco", usual.data.transforms, root=str(root)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With `photos`, a set, and `run`, a finished run on it."""
    folder = tmp_path_factory.mktemp("bäume")
    train(config_of(write_set(folder / "photos")), folder / "run", Ranks(torch.device("cpu")))
    return folder


def run(folder: Path, environment: str, script: str, *settings: str) -> subprocess.CompletedProcess:
    variables = os.environ | ENVIRONMENTS[environment]
    return subprocess.run(command(script, *settings), cwd=folder, env=variables, capture_output=True)


def quoted(name: str, path: Path) -> str:
    return f'{name}="{path}"'


def test_a_table_is_printed_to_its_end(folder: Path):
    """In the C locale not even the folder's name can be written, which the checkpoint has in full."""
    ended = run(folder, "C", "eval", quoted("checkpoint", folder / "run"), "device=cpu")
    assert ended.returncode == 0, ended.stderr
    assert rb"\u732b" in ended.stdout
    assert b"detections: " in ended.stdout


@pytest.mark.slow
@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize(
    ("script", "settings"),
    [
        ("train", ["data=coco", "data.num_workers=0", "schedule.max_epochs=1", "schedule.batch_size=4", *SMALLEST]),
        ("eval", ["device=cpu"]),
        ("predict", ["threshold=0.0", "device=cpu"]),
        ("visualize", ["draw=scores"]),
        pytest.param("export", ["image_size=[80,96]", "device=cpu"], marks=NEEDS_EXPORT),
    ],
)
def test_every_script_ends_well(folder: Path, tmp_path: Path, environment: str, script: str, settings: list[str]):
    own = {
        "train": [quoted("data.root", folder / "photos")],
        "predict": [quoted("source", folder / "photos" / "val"), quoted("output", folder / f"found_{environment}")],
    }
    checkpoint = [] if script == "train" else [quoted("checkpoint", folder / "run")]
    ended = run(tmp_path, environment, script, *settings, *checkpoint, *own.get(script, []))
    assert ended.returncode == 0, ended.stderr
    assert b"Traceback" not in ended.stderr
    if script in ("train", "eval", "predict"):
        assert rb"\u732b" in ended.stdout


def test_a_run_tells_what_its_output_cannot(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """From Python, where nothing has set the streams up."""
    with (tmp_path / "out").open("w", encoding="cp1252") as narrow:
        monkeypatch.setattr("sys.stdout", narrow)
        train(config_of(folder / "photos"), tmp_path / "run", Ranks(torch.device("cpu")))
    assert r"\u732b" in (tmp_path / "out").read_text(encoding="cp1252")
    assert (tmp_path / "run" / "results.json").exists()
