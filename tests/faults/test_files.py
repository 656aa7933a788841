import errno
import os
import resource
from pathlib import Path

import numpy as np
import pytest
import torch

from litedetr.engine.coco_metrics import DETECTION
from litedetr.engine.evaluation_loop import write_detections
from litedetr.faults.files import StorageError, remove_leftovers, replacing, require_writable, writing
from litedetr.settings import ConfigError


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path):
    path = tmp_path / "numbers"
    path.write_text("old")
    with replacing(path) as file:
        file.write(b"new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    with pytest.raises(TypeError, match="bytes-like"), replacing(path) as file:
        file.writelines([b"half", None])
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["numbers"]


def test_detections_that_cannot_be_written_leave_the_earlier_ones(tmp_path: Path):
    path = tmp_path / "detections.json"
    path.write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(StorageError, match=r"detections\.json: cannot be written: File too large"):
            write_detections(path, np.ones(100, DETECTION))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "old"


def test_what_a_kill_left_is_removed(tmp_path: Path):
    for name in (".last.pt.tmp", ".best.pt.tmp", "last.pt"):
        (tmp_path / name).write_text("")
    remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == ["last.pt"]


@pytest.mark.parametrize("size", [10, 100_000])
def test_a_file_too_large_for_its_disk_is_named_with_what_it_needs(tmp_path: Path, size: int):
    """torch.save tells of it in two ways, depending on where the disk ends; neither is the system's error."""
    path = tmp_path / "last.pt"
    path.write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        with pytest.raises(StorageError) as error, replacing(path, 400_000) as file:
            torch.save({"weight": torch.zeros(100_000)}, file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize / 1e6
    assert free == pytest.approx(float(str(error.value).split(", ")[1].split()[0]), rel=0.1)
    assert str(error.value).startswith(f"{path}: cannot be written: File too large (about 0.4 MB needed, ")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["last.pt"]


def test_other_reasons_are_given_as_the_system_gives_them(tmp_path: Path):
    path = tmp_path / "picture.png"
    with pytest.raises(StorageError, match=f"^{path}: cannot be written: Permission denied$"), writing(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    with pytest.raises(ZeroDivisionError), writing(path):
        print(1 / 0)


def test_a_folder_that_cannot_be_written_to_is_refused_and_one_that_can_is_left_alone(tmp_path: Path):
    require_writable("run", tmp_path / "a" / "b")
    require_writable("run", Path("runs"))
    assert os.listdir(tmp_path) == []
    file = tmp_path / "file"
    file.write_text("")
    for folder in (file, file / "b", Path("/dev/null/b")):
        with pytest.raises(
            ConfigError, match=f"^run: expected a folder to write to, got '{folder}' .Not a directory.$"
        ):
            require_writable("run", folder)
    with pytest.raises(ConfigError, match="^run: expected a folder to write to, got '/proc/b' (.*)"):
        require_writable("run", Path("/proc/b"))
