"""The changes that docs/hacking.md shows, made in a copy of the project."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from page_changes import changed_copy, changes
from test_scripts import TINY

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return changed_copy(tmp_path_factory.mktemp("copy"))


def test_every_change_touches_as_many_files_as_the_page_says():
    touched = [re.findall(r"^\+\+\+ b/(.*)$", change, re.MULTILINE) for change in changes()]
    assert touched == [
        ["conf/encoder/low_first.yaml", "litedetr/models/encoder/blocks.py"],
        ["conf/experiment/centre.yaml", "litedetr/losses/terms.py"],
        ["conf/transforms/bright.yaml", "litedetr/data/augmentations/colour.py"],
        ["kernels/fused/launch.py"],
    ]


def test_all_of_them_train(copy: Path, cache: Path, tmp_path: Path):
    tiny = [setting for setting in TINY if setting != "encoder=h3l1"]
    settings = ["encoder=low_first", "experiment=centre", "transforms=bright", *tiny, f"data.shapes.cache={cache}"]
    settings += ["trainer.stop_after=2", "run=foo"]
    command = [sys.executable, str(copy / "scripts" / "train.py"), *settings]
    # no bytecode: two of the files differ from those of this clone in less than a second
    environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in (tmp_path / "runs/foo/metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2]
    assert all(value > 0 for value in records[0]["loss_parts"]["decoder"]["centre"])
    config = (tmp_path / "runs/foo/config.yaml").read_text()
    assert "update: low_first" in config
    assert "brightness: 0.5" in config


def test_another_block_size_launches_other_blocks(copy: Path):
    program = (
        "from litedetr.kernels.fused.launch import Shape, rule\n"
        "print(rule(Shape('forward', 'key_aware_shared', 'bfloat16', 8, 32, 4, 4, 8192)).block_queries)"
    )
    printed = {}
    for folder in (ROOT, copy):
        environment = os.environ | {"PYTHONPATH": str(folder)}
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, text=True
        )
        printed[folder] = done.stdout.strip() or done.stderr
    assert printed == {ROOT: "32", copy: "16"}
