"""A disk that is full, or that cannot be written to: one line that names the file, and nothing lost."""

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_helpers import run_config
from fault_helpers import REPEATABLE, Script, assert_identical, assert_tidy, left_by
from PIL import Image
from test_scripts import TINY

from litedetr.data import ShapesConfig
from litedetr.data.shapes_dataset import shapes_root
from litedetr.engine.build_trainer import build_trainer
from litedetr.engine.checkpoint import load_checkpoint, save_checkpoint
from litedetr.engine.distributed import Ranks
from litedetr.engine.run_folder import RunFolder
from litedetr.engine.train_step import TrainStep
from litedetr.engine.trainer import Trainer
from litedetr.faults.files import StorageError
from litedetr.settings import ConfigError

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def no_room(*arguments: Any, **settings: Any) -> None:
    raise FULL


def break_pictures(trainer: Trainer, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Image.Image, "save", no_room)


def break_metrics(trainer: Trainer, patch: pytest.MonkeyPatch) -> None:
    trainer.folder.metrics.symlink_to("/dev/full")


def break_tensorboard(trainer: Trainer, patch: pytest.MonkeyPatch) -> None:
    writer = trainer.report.tracker._board.file_writer.event_writer._general_file_writer
    patch.setattr(writer, "write", no_room)
    patch.setattr("threading.excepthook", lambda failure: None)  # as clear_errors does


def break_results(trainer: Trainer, patch: pytest.MonkeyPatch) -> None:
    (trainer.folder.path / ".results.json.tmp").symlink_to("/dev/full")


def break_checkpoints(trainer: Trainer, patch: pytest.MonkeyPatch) -> None:
    """From the third on."""
    calls = []

    def save(path: Path, checkpoint: Any) -> None:
        calls.append(path)
        if len(calls) == 3:
            path.with_name(f".{path.name}.tmp").symlink_to("/dev/full")
        save_checkpoint(path, checkpoint)

    patch.setattr("litedetr.engine.trainer.save_checkpoint", save)


@pytest.mark.parametrize(
    ("break_it", "name", "saved"),
    [
        (break_checkpoints, "last.pt", 2),
        (break_metrics, "metrics.jsonl", None),
        (break_tensorboard, "tensorboard", None),
        (break_pictures, "pictures/image_1.png", 3),
        (break_results, "results.json", 6),
    ],
)
def test_a_run_that_cannot_write_ends_and_can_be_continued(
    cache: Path,
    tmp_path: Path,
    one_rank: Ranks,
    monkeypatch: pytest.MonkeyPatch,
    break_it: Callable[[Trainer, pytest.MonkeyPatch], None],
    name: str,
    saved: int | None,
):
    """saved: the step of the last checkpoint, None before the first."""
    config = run_config(cache, trainer={"checkpoint_every": 1})
    trainer = build_trainer(config, RunFolder(tmp_path, None, "test"), one_rank)
    break_it(trainer, monkeypatch)
    with pytest.raises(StorageError) as error:
        trainer.run()
    text = str(error.value)
    assert text.startswith(f"{tmp_path / name}: cannot be written: No space left on device (")
    assert "MB free there)" in text
    assert "\n" not in text
    assert_tidy(tmp_path)
    if saved is None:
        assert text.endswith("Nothing was saved yet")
    else:
        assert text.endswith(f"The last checkpoint is intact: resume={tmp_path} continues from it")
        assert load_checkpoint(tmp_path / "last.pt").progress.step == saved
    assert not (tmp_path / "results.json").exists()


def test_the_first_error_is_told_even_where_tensorboard_fails_too(
    cache: Path, tmp_path: Path, one_rank: Ranks, monkeypatch: pytest.MonkeyPatch
):
    trainer = build_trainer(run_config(cache), RunFolder(tmp_path, None, "test"), one_rank)
    break_tensorboard(trainer, monkeypatch)
    monkeypatch.setattr(TrainStep, "__call__", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer.run()


def test_a_data_set_that_finds_no_room_is_not_left_half_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image.Image, "save", no_room)
    with pytest.raises(ConfigError, match=r"data\.shapes\.cache: expected a folder with room .*No space left"):
        shapes_root(ShapesConfig(cache=str(tmp_path)))
    assert os.listdir(tmp_path) == []


def test_a_script_says_which_file_found_no_room_and_goes_on_later(tmp_path: Path, cache: Path):
    """No file may exceed 1 MB, which the checkpoint does."""
    settings = [*TINY, f"data.shapes.cache={cache}", "schedule.max_epochs=1", "run=foo", "resume=auto"]
    stopped = Script(tmp_path, "train", *settings, file_limit=1_000_000)
    assert stopped.end() == 2
    assert "error: runs/foo/last.pt: cannot be written: File too large (about " in stopped.error
    assert "Nothing was saved yet" in stopped.error
    assert_tidy(tmp_path / "runs" / "foo")
    again = Script(tmp_path, "train", *settings)
    assert again.end() == 0, again.stderr


@pytest.mark.parametrize("file", ["runs", "runs/foo"])
def test_a_run_folder_that_cannot_be_is_refused_before_anything_else(tmp_path: Path, file: str):
    """Before the data set is looked for, which is not there."""
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("")
    script = Script(tmp_path, "train", "data=coco", "data.root=none", "run=foo")
    assert script.end() == 2
    assert script.error.startswith("error: run: expected a folder to write to, got '")


def test_an_output_folder_that_cannot_be_is_refused_before_anything_else(tmp_path: Path):
    script = Script(tmp_path, "eval", "checkpoint=none.pt", "output=stdout/foo")
    assert script.end() == 2
    assert script.error == "error: output: expected a folder to write to, got 'stdout/foo' (Not a directory)"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a disk of so many KiB."""
    mounted = []

    def mount(kib: int) -> Path:
        folder = tmp_path / f"disk_{kib}"
        folder.mkdir()
        made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "none", folder], capture_output=True)
        if made.returncode != 0:
            pytest.skip(f"no disk can be mounted here: {made.stderr.decode().strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.slow
def test_disks_of_many_sizes(tmp_path: Path, cache: Path, small_disk: Callable[[int], Path]):
    """Whatever file it is that finds no room, the run is continued on a larger disk and ends as one never stopped."""
    settings = [*REPEATABLE, f"data.shapes.cache={cache}", "run=foo", "resume=auto"]
    whole = tmp_path / "whole"
    whole.mkdir()
    assert Script(whole, "train", *settings).end() == 0
    expected = left_by(whole / "runs" / "foo")
    used = sum(path.stat().st_size for path in whole.rglob("*")) // 1024
    stopped_at = []
    for kib in (4, 8, 16, 24, *(int(share * used) for share in (0.4, 0.6, 0.8, 0.95, 0.99))):
        disk, log = small_disk(kib), tmp_path / f"log_{kib}"
        log.mkdir()
        (log / "runs").symlink_to(disk)
        script = Script(log, "train", *settings)
        assert script.end() == 2
        stopped_at.append(script.error.split(": ")[1])
        assert_tidy(disk / "foo")
        larger = tmp_path / f"larger_{kib}"
        shutil.copytree(disk, larger / "runs")
        again = Script(larger, "train", *settings)
        assert again.end() == 0, again.stderr
        assert_identical(left_by(larger / "runs" / "foo"), expected)
    print("\nfound no room:", ", ".join(stopped_at))
    assert len(set(stopped_at)) >= 3
