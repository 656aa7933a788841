"""A process that loads images dies, or meets an image that is none."""

import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_helpers import run_config
from fault_helpers import PATIENCE, Script
from test_scripts import TINY
from torch.utils.data import get_worker_info

from litedetr.data import CocoDetection, DataError, build_datasets
from litedetr.engine.build_trainer import build_trainer
from litedetr.engine.checkpoint import load_checkpoint
from litedetr.engine.distributed import Ranks
from litedetr.engine.run_config import RunConfig
from litedetr.engine.run_folder import RunFolder
from litedetr.faults.processes import LoaderError

LAST = 11  # an image of the first epoch's last batch


def with_workers(cache: Path, num_workers: int) -> RunConfig:
    config = run_config(cache, trainer={"checkpoint_every": 1})
    return replace(config, data=replace(config.data, num_workers=num_workers))


def fail_in_second_epoch(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    load = CocoDetection.__getitem__

    def broken(self: CocoDetection, key: tuple[int, int]) -> object:
        if key[0] == 1 and get_worker_info() is not None:
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "exits":
                os._exit(3)
            if how == "no memory":
                raise MemoryError
            raise RuntimeError("unable to write to file </torch_17_3>: No space left on device (28)")
        return load(self, key)

    monkeypatch.setattr(CocoDetection, "__getitem__", broken)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (
            "killed",
            r"(DataLoader worker \(pid.* (is killed by signal: Killed|exited)|it ended while it handed over images)",
        ),
        ("exits", r"(DataLoader worker \(pid.* exited unexpectedly|it ended while it handed over images)"),
        ("no memory", r"MemoryError"),
        ("no shared memory", r"RuntimeError: unable to write to file </torch_17_3>: No space left on device \(28\)"),
    ],
)
def test_the_end_of_a_loader_process_is_told_with_what_to_do(
    cache: Path, tmp_path: Path, one_rank: Ranks, monkeypatch: pytest.MonkeyPatch, how: str, reason: str
):
    fail_in_second_epoch(monkeypatch, how)
    trainer = build_trainer(with_workers(cache, 2), RunFolder(tmp_path, None, "test"), one_rank)
    way_on = rf"fewer data\.num_workers help; .*\. The last checkpoint is intact: resume={tmp_path} continues from it$"
    with pytest.raises(LoaderError, match=rf"^a process that loads images failed \({reason}.*\)\. .*{way_on}") as error:
        trainer.run()
    assert "\n" not in str(error.value)
    assert load_checkpoint(tmp_path / "last.pt").progress.step >= 3 - 1  # the signal may come a step earlier


def test_other_errors_keep_their_place(cache: Path, tmp_path: Path, one_rank: Ranks, monkeypatch: pytest.MonkeyPatch):
    trainer = build_trainer(run_config(cache), RunFolder(tmp_path, None, "test"), one_rank)
    monkeypatch.setattr(trainer.state.model, "forward", lambda *arguments: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="size") as error:
        trainer.run()
    assert not isinstance(error.value, LoaderError)


@pytest.fixture
def spoilt(cache: Path, tmp_path: Path) -> Path:
    """A copy of the data set, one of whose images is cut short."""
    config = run_config(cache)
    path = build_datasets(config.data, 0).train.image_path(LAST)
    shutil.copytree(path.parents[1], tmp_path / "set")
    image = tmp_path / "set" / "train" / path.name
    image.write_bytes(image.read_bytes()[:200])
    return image


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_spoilt_image_is_named_in_one_line(spoilt: Path, tmp_path: Path, one_rank: Ranks, num_workers: int):
    data = replace(run_config(tmp_path).data, name="coco", root=str(spoilt.parents[1]), num_workers=num_workers)
    config = replace(run_config(tmp_path, trainer={"checkpoint_every": 1}), data=data)
    with pytest.raises(DataError) as error:
        build_trainer(config, RunFolder(tmp_path / "run", None, "test"), one_rank).run()
    annotations = spoilt.parents[1] / "annotations" / "instances_train.json"
    assert str(error.value).startswith(f"image id {LAST} of {annotations}: {spoilt}: cannot be read as an image: ")
    assert "\n" not in str(error.value)


def test_the_user_is_told_the_image(spoilt: Path, tmp_path: Path):
    settings = [setting for setting in TINY if not setting.startswith("data.")]
    data = ["data=coco", "transforms=native", f"data.root={spoilt.parents[1]}", "data.num_workers=1"]
    script = Script(tmp_path, "train", *settings, *data, "run=foo")
    assert script.end() == 2
    assert f"{spoilt}: cannot be read as an image" in script.error


def children(pid: int) -> list[int]:
    return [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds processes in /proc")
@pytest.mark.parametrize("victim", ["a loader process", "the training process"])
def test_nobody_waits_for_a_killed_process(tmp_path: Path, cache: Path, victim: str):
    """A loader's end ends the run with code 2; the end of the run ends its loaders."""
    settings = [*TINY, f"data.shapes.cache={cache}", "data.num_workers=2", "run=foo", "trainer.checkpoint_every=1"]
    script = Script(tmp_path, "train", *settings)
    last = tmp_path / "runs" / "foo" / "last.pt"
    assert script.wait_for(last.exists, pause=0.01)
    loaders = children(script.pid)
    if victim == "the training process":
        script.kill(signal.SIGKILL)
        assert script.end() == -signal.SIGKILL
    else:
        os.kill(loaders[0], signal.SIGKILL)
        assert script.end() == 2
        assert "error: a process that loads images failed (" in script.error
        assert "resume=runs/foo continues from it" in script.error
    assert load_checkpoint(last).progress.step >= 1
    deadline = time.monotonic() + PATIENCE
    while any(map(is_running, loaders)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
