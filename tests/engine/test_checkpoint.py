import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_helpers import MODEL, run_config

from litedetr.data import Categories
from litedetr.engine.checkpoint import (
    Checkpoint,
    CheckpointError,
    Progress,
    checkpoint_file,
    load_checkpoint,
    load_detector,
    save_checkpoint,
)
from litedetr.models import build_detector
from litedetr.settings import to_mapping

CATEGORIES = Categories(("cat", "dog"), (3, 17))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    torch.manual_seed(0)
    return Checkpoint(
        config=to_mapping(run_config(tmp_path)),
        categories=CATEGORIES,
        model=build_detector(MODEL, 2).state_dict(),
        ema=build_detector(MODEL, 2).state_dict(),
        optimizer={"weight": {"step": torch.tensor(5.0), "exp_avg": torch.ones(2)}},
        scaler={},
        progress=Progress(step=5, evaluated_step=3, best_score=0.25),
        steps_per_epoch=3,
    )


def test_all_of_it_comes_back(checkpoint: Checkpoint, tmp_path: Path):
    save_checkpoint(tmp_path / "last.pt", checkpoint)
    loaded = load_checkpoint(tmp_path / "last.pt")
    assert (loaded.progress, loaded.config, loaded.categories) == (
        checkpoint.progress,
        checkpoint.config,
        checkpoint.categories,
    )
    assert all(torch.equal(loaded.ema[name], value) for name, value in checkpoint.ema.items())
    assert loaded.optimizer["weight"]["step"] == 5
    assert os.listdir(tmp_path) == ["last.pt"]


SAVE_FOR_EVER = """
import sys, torch
from pathlib import Path
from litedetr.engine.checkpoint import load_checkpoint, save_checkpoint
path = Path(sys.argv[1])
checkpoint = load_checkpoint(path)
checkpoint.model["filler"] = torch.zeros(1_000_000)
print("ready", flush=True)
while True:
    save_checkpoint(path, checkpoint)
"""


def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(checkpoint: Checkpoint, tmp_path: Path):
    path = tmp_path / "last.pt"
    save_checkpoint(path, checkpoint)
    child = subprocess.Popen([sys.executable, "-c", SAVE_FOR_EVER, path], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "ready\n"
    watched = time.monotonic() + 1.0
    while time.monotonic() < watched:  # a reader meets a whole file while another one is written, too
        load_checkpoint(path)
    # The kill falls into the writing, not between two savings.
    while not (tmp_path / ".last.pt.tmp").exists():
        pass
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert load_checkpoint(path).progress.step == 5
    save_checkpoint(path, checkpoint)
    assert os.listdir(tmp_path) == ["last.pt"]


def test_a_failed_save_keeps_the_old_file(checkpoint: Checkpoint, tmp_path: Path):
    path = tmp_path / "last.pt"
    save_checkpoint(path, checkpoint)
    with pytest.raises(Exception, match="local object"):
        save_checkpoint(path, replace(checkpoint, scaler={"not": lambda: None}))
    assert load_checkpoint(path).progress.step == 5


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.99])
def test_a_truncated_file_is_refused_by_name(checkpoint: Checkpoint, tmp_path: Path, kept: float):
    path = tmp_path / "last.pt"
    save_checkpoint(path, checkpoint)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(CheckpointError, match=f"{re.escape(str(path))}.*damaged"):
        load_checkpoint(path)


def test_foreign_missing_and_future_files_are_refused(checkpoint: Checkpoint, tmp_path: Path):
    path = tmp_path / "x.pt"
    with pytest.raises(CheckpointError, match=r"no such checkpoint; a run folder holds last\.pt and best\.pt"):
        load_checkpoint(path)
    torch.save({"model": {}}, path)
    with pytest.raises(CheckpointError, match="not a checkpoint of this project"):
        load_checkpoint(path)
    save_checkpoint(path, checkpoint)
    torch.save(torch.load(path) | {"version": 99}, path)
    with pytest.raises(CheckpointError, match="version 99"):
        load_checkpoint(path)


def test_a_run_without_an_evaluation_has_its_weights_in_last(checkpoint: Checkpoint, tmp_path: Path):
    save_checkpoint(tmp_path / "last.pt", checkpoint)
    with pytest.raises(CheckpointError, match=re.escape(f"not evaluated yet; {tmp_path / 'last.pt'} has")):
        load_checkpoint(checkpoint_file(tmp_path))


def test_a_detector_is_rebuilt_from_the_file_alone_with_averaged_weights(checkpoint: Checkpoint, tmp_path: Path):
    save_checkpoint(tmp_path / "best.pt", checkpoint)
    loaded = load_detector(tmp_path / "best.pt")
    state = loaded.model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in checkpoint.ema.items())
    assert not loaded.model.training
    assert (loaded.categories.names, loaded.categories.ids) == (("cat", "dog"), (3, 17))

    save_checkpoint(tmp_path / "plain.pt", replace(checkpoint, ema=None))
    state = load_detector(tmp_path / "plain.pt").model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in checkpoint.model.items())
