"""The scripts as a user runs them."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from litedetr.tools.export.file_formats import torch_can_trace

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    *("encoder=h3l1", "a=1", "b=1", "encoder.feedforward=16", "neck.channels=16", "neck.norm_groups=4"),
    *("attention.num_heads=2", "query_selection.num_queries=8", "decoder.num_layers=1", "decoder.feedforward=16"),
    *("backbone.width=8", "data.num_workers=0", "data.shapes.num_train=12", "data.shapes.num_val=5"),
    *("data.shapes.min_side=48", "data.shapes.max_side=64", "schedule.batch_size=4", "schedule.max_epochs=100"),
    *("schedule.warmup_steps=0", "trainer.device=cpu", "trainer.log_every=1", "trainer.num_pictures=1"),
]
NEEDS_EXPORT = pytest.mark.skipif(not torch_can_trace(), reason="export needs a later torch")

SMALL = ["size=small", "backbone=resnet18_slim"]


def command(script: str, *settings: str) -> list[str]:
    return [sys.executable, str(ROOT / "scripts" / f"{script}.py"), *settings]


def run(folder: Path, script: str, *settings: str) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name != "HYDRA_FULL_ERROR"}
    return subprocess.run(command(script, *settings), cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture
def tiny(cache: Path) -> list[str]:
    return [*TINY, f"data.shapes.cache={cache}"]


def test_stop_resume_and_evaluate(tmp_path: Path, tiny: list[str]):
    """SIGTERM in the middle, `resume=auto` to the end, the scores once more from the checkpoint."""
    child = subprocess.Popen(command("train", *tiny, "run=foo"), cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    folder = tmp_path / "runs" / "foo"
    deadline = time.monotonic() + 60
    while not (folder / "metrics.jsonl").exists() or not (folder / "metrics.jsonl").read_text():
        assert child.poll() is None, child.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child.send_signal(signal.SIGTERM)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 128 + signal.SIGTERM
    assert "SIGTERM: left after step" in errors
    assert "Traceback" not in errors

    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    last = max(steps)
    again = run(
        tmp_path, "train", *tiny, "run=foo", "resume=auto", "schedule.max_epochs=null", f"schedule.max_steps={last + 2}"
    )
    assert again.returncode == 0, again.stderr
    assert "COCO box scores" in again.stdout
    assert f"schedule.max_steps: None -> {last + 2}" in again.stdout
    assert (folder / "config.yaml").exists()
    assert not (tmp_path / "outputs").exists()

    evaluated = run(tmp_path, "eval", "checkpoint=runs/foo/last.pt", "device=cpu", "batch_size=2")
    assert evaluated.returncode == 0, evaluated.stderr
    table = evaluated.stdout[evaluated.stdout.index("COCO box scores") : evaluated.stdout.index("detections:")]
    assert table.strip() in again.stdout
    found = json.loads((folder / "detections.json").read_text())
    assert {entry["image_id"] for entry in found} == {1, 2, 3, 4, 5}
    assert set(found[0]) == {"image_id", "category_id", "bbox", "score"}


def test_two_of_five_classes_and_fine_tuning_onto_them(tmp_path: Path, tiny: list[str]):
    """Training on some classes scores those alone, there and in eval.py; a checkpoint of all five begins it."""
    short = ["schedule.max_epochs=null", "schedule.max_steps=2"]
    all_five = run(tmp_path, "train", *tiny, *short, "run=five")
    assert all_five.returncode == 0, all_five.stderr
    chosen = ["data.classes=[star, ring]", "trainer.init_from=runs/five/last.pt", "run=two"]
    tuned = run(tmp_path, "train", *tiny, *short, *chosen)
    assert tuned.returncode == 0, tuned.stderr
    counts = re.search(r"2 classes, 12 training and 5 validation images with (\d+) and (\d+) objects", tuned.stdout)
    assert min(map(int, counts.groups())) > 0
    assert "left at their initial values: query_selection.head.classes.weight" in tuned.stdout
    evaluated = run(tmp_path, "eval", "checkpoint=runs/two/last.pt", "device=cpu")
    assert evaluated.returncode == 0, evaluated.stderr
    for output in (tuned.stdout, evaluated.stdout):
        table = output[output.index("  class  ") :].splitlines()
        assert [line.split()[0] for line in table[1:3]] == ["ring", "star"]
        assert not {"circle", "square", "triangle"} & {word for line in table for word in line.split()}
    found = {entry["category_id"] for entry in json.loads((tmp_path / "runs/two/detections.json").read_text())}
    assert len(found) <= 2
    mistaken = run(tmp_path, "train", *tiny, "data.classes=[star, moon]", "run=none")
    assert mistaken.returncode == 2
    known = "circle, ring, square, triangle, star"
    assert f"error: data.classes: expected names out of {known}, got moon" in mistaken.stderr
    assert not (tmp_path / "runs" / "none").exists()


@pytest.mark.parametrize(
    ("script", "settings", "message"),
    [
        ("train", ["schedule.lr=fast"], "error: schedule.lr: expected a number, got 'fast'"),
        ("train", ["resume=runs/none"], "error: resume=runs/none: no such checkpoint"),
        (
            "train",
            ["attention.sampling=discrete"],
            "error: attention.sampling: expected one of 'bilinear' or 'nearest', got 'discrete'",
        ),
        ("eval", [], "Missing mandatory value: checkpoint"),
        ("train", ["model=dino_4scale", "+a=6"], "error: a: expected null with encoder.update=full, got 6"),
        ("train", ["run="], "error: run: expected the name of a folder under runs/, without slashes, got ''"),
        ("train", ["trainer.init_from=/dev/null/best.pt"], "error: "),
        ("flops", ["+unknown=1"], "error: unknown: expected one of backbone, "),
        ("memory", [*SMALL, "num_classes=1000000000000000"], "error: out of memory, smaller sizes need less: "),
        ("benchmark", ["rows=[models]", "models.systems=['+unknown=1']"], "error: unknown: expected one of backbone, "),
        (
            "benchmark",
            ["rows=[models]", "models.systems=[model]"],
            "error: models.systems: expected settings for conf/",
        ),
        ("benchmark", ["rows=[scale]", "scale.system='model=no'"], "error: scale.system: expected settings for conf/"),
        pytest.param("export", ["checkpoint=none.pt"], "error: none.pt: no such checkpoint", marks=NEEDS_EXPORT),
        ("export", ["checkpoint=none.pt", "format=engine"], "error: format: expected one of 'onnx', "),
    ],
)
def test_a_mistake_is_one_clear_message(tmp_path: Path, script: str, settings: list[str], message: str):
    result = run(tmp_path, script, *settings)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert "full_key" not in result.stderr  # of OmegaConf's errors their first line
    assert list(tmp_path.iterdir()) == []
