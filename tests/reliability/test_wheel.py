"""The wheel and the sdist, built from a copy of the tree; the wheel is installed and used where no clone is."""

import json
import os
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest
from engine_helpers import run_config, train
from test_packages import PROJECT, ROOT
from test_scripts import TINY
from wheel_helpers import BUILD, checked, copy_of_the_tree, environment, install, packages_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(int(version("setuptools").split(".")[0]) < 77, reason="the build needs setuptools 77"),
]
USE = """
import json, sys
from importlib.metadata import metadata
import numpy as np
import litedetr, litedetr.kernels.functional as functional
detector = litedetr.load(sys.argv[1])
(found,) = detector.predict(np.zeros((48, 64, 3), np.uint8), threshold=0.0)
about = metadata("litedetr")
print(json.dumps({
    "files": [functional.__file__, litedetr.__file__],
    "version": about["Version"],
    "extras": about.get_all("Provides-Extra"),
    "names": detector.names,
    "found": len(found.scores),
    "triton": functional.HAS_TRITON,
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
    tree = copy_of_the_tree(tmp_path_factory.mktemp("tree"))
    output = checked([sys.executable, "-c", BUILD], tree).split()
    sdist, wheel = (tree / "dist" / next(name for name in output if name.endswith(end)) for end in (".gz", ".whl"))
    python = environment(tmp_path_factory.mktemp("environment"))
    (packages_of(python) / "sitecustomize.py").write_text("import sys\nsys.modules['triton'] = None\n")
    install(python, wheel)
    return Built(sdist, wheel, python)


def sources() -> list[str]:
    """The paths of our modules within the package; os.walk follows the link to kernels/."""
    walk = os.walk(ROOT / "litedetr", followlinks=True)
    return [
        (Path(at) / name).relative_to(ROOT).as_posix() for at, _, names in walk for name in names if name[-3:] == ".py"
    ]


def test_the_wheel_is_the_library(built: Built):
    names = zipfile.ZipFile(built.wheel).namelist()
    about = next(name for name in names if name.endswith("/METADATA")).split("/")[0]
    assert {name.split("/")[0] for name in names} == {"litedetr", about}
    assert {"litedetr/kernels/tuned/a-gpu.json", f"{about}/licenses/LICENSE"} <= set(names)
    assert {name for name in names if name.endswith(".py")} == set(sources())


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
    assert (found["version"], found["extras"]) == (PROJECT["version"], ["dev", "export", "backbones", "pretrained"])
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
