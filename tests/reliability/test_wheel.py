"""The wheel and the sdist, built from a copy of the tree; the wheel is installed and used where no clone is."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest
from engine_helpers import run_config, train
from test_packages import PROJECT, ROOT
from test_scripts import TINY

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(int(version("setuptools").split(".")[0]) < 77, reason="the build needs setuptools 77"),
]
TREE = ["kernels", "litedetr", "scripts", "conf", "tests", "docs", "pyproject.toml", "README.md", "LICENSE"]
BUILD = """
import setuptools.build_meta as backend
print(backend.build_sdist("dist"))
print(backend.build_wheel("dist"))
"""
USE = """
import json, sys
from importlib.metadata import metadata
import numpy as np
import kernels, litedetr
detector = litedetr.load(sys.argv[1])
(found,) = detector.predict(np.zeros((48, 64, 3), np.uint8), threshold=0.0)
about = metadata("litedetr")
print(json.dumps({
    "files": [kernels.__file__, litedetr.__file__],
    "version": about["Version"],
    "extras": about.get_all("Provides-Extra"),
    "names": detector.names,
    "found": len(found.scores),
    "triton": litedetr.kernels.functional.HAS_TRITON,
}))
"""


@dataclass(frozen=True)
class Built:
    """sdist, wheel: the files. python: of an environment that holds the wheel, and no Triton."""

    sdist: Path
    wheel: Path
    python: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    tree = tmp_path_factory.mktemp("tree")
    for name in TREE:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tree / name)
    (tree / "kernels" / "tuned").mkdir(exist_ok=True)
    (tree / "kernels" / "tuned" / "a-gpu.json").write_text("{}")
    output = checked([sys.executable, "-c", BUILD], tree).split()
    sdist, wheel = (tree / "dist" / next(name for name in output if name.endswith(end)) for end in (".gz", ".whl"))
    return Built(sdist, wheel, environment(tmp_path_factory.mktemp("environment"), wheel))


def environment(folder: Path, wheel: Path) -> Path:
    """A new environment with the wheel, the packages of this one, but for Triton; needs no network."""
    checked([sys.executable, "-m", "venv", "--without-pip", str(folder)], folder)
    python = folder / "bin" / "python"
    packages = Path(checked([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder).strip())
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))  # as a path alone: no editable install of ours
    (packages / "sitecustomize.py").write_text("import sys\nsys.modules['triton'] = None\n")
    install = ["install", "--quiet", "--no-deps", "--no-index", "--ignore-installed", str(wheel)]
    checked([sys.executable, "-m", "pip", "--python", str(python), *install], folder)
    return python


def checked(command: list[str | Path], folder: Path) -> str:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_wheel_is_the_library(built: Built):
    names = zipfile.ZipFile(built.wheel).namelist()
    about = next(name for name in names if name.endswith("/METADATA")).split("/")[0]
    assert {name.split("/")[0] for name in names} == {"kernels", "litedetr", about}
    assert {"kernels/tuned/a-gpu.json", f"{about}/licenses/LICENSE"} <= set(names)
    sources = {
        path.relative_to(ROOT).as_posix() for top in ("kernels", "litedetr") for path in (ROOT / top).rglob("*.py")
    }
    assert {name for name in names if name.endswith(".py")} == sources


def test_the_sdist_builds_it_again(built: Built, tmp_path: Path):
    with tarfile.open(built.sdist) as archive:
        archive.extractall(tmp_path)
    (folder,) = tmp_path.iterdir()
    assert (folder / "LICENSE").exists()
    assert (folder / "README.md").exists()
    checked([sys.executable, "-c", BUILD], folder)
    (again,) = (folder / "dist").glob("*.whl")
    assert sorted(zipfile.ZipFile(again).namelist()) == sorted(zipfile.ZipFile(built.wheel).namelist())


def test_a_checkpoint_predicts_without_a_clone_and_without_triton(built: Built, cache: Path, tmp_path: Path, one_rank):
    train(run_config(cache), tmp_path / "run", one_rank)
    found = json.loads(checked([built.python, "-c", USE, tmp_path / "run"], tmp_path))
    assert all(Path(file).is_relative_to(built.python.parents[1]) for file in found["files"])
    assert (found["version"], found["extras"]) == (PROJECT["version"], ["dev", "export", "backbones"])
    assert found["names"] == ["circle", "ring", "square", "triangle", "star"]
    assert found["found"] > 0
    assert not found["triton"]


def test_the_clone_trains_without_triton(built: Built, cache: Path, tmp_path: Path):
    settings = [*TINY, f"data.shapes.cache={cache}", "schedule.max_epochs=null", "schedule.max_steps=3", "run=foo"]
    output = checked([built.python, ROOT / "scripts" / "train.py", *settings], tmp_path)
    assert "COCO box scores" in output
    assert (tmp_path / "runs" / "foo" / "last.pt").exists()


@pytest.mark.parametrize("script", ["benchmark", "memory"])
def test_scripts_that_import_kernels_start_without_triton(built: Built, tmp_path: Path, script: str):
    assert checked([built.python, ROOT / "scripts" / f"{script}.py", "--help"], tmp_path)
