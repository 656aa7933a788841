"""Hugging Face's package `kernels`, which transformers takes kernels from, beside ours, which is `litedetr.kernels`."""

import importlib.util
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from test_packages import ROOT
from wheel_helpers import BUILD, checked, copy_of_the_tree, environment, install

# a version of transformers that takes kernels from this version of theirs, and runs with this environment's packages
THEIRS = ("kernels==0.17.2", "transformers==5.20.0")
NO_DOWNLOAD = ("No matching distribution", "Connection", "Temporary failure", "timed out", "Max retries", "resolve")
USE = """
import json
import kernels
import litedetr.kernels.functional as ours
import torch
import transformers
from transformers.utils import is_kernels_available

config = transformers.LlamaConfig(
    hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=8
)
model = transformers.LlamaModel(config)
with kernels.use_kernel_mapping({}, inherit_mapping=False):  # without a download from their hub
    kernels.kernelize(model, mode=kernels.Mode.INFERENCE, device="cpu")
print(json.dumps({
    "theirs": [kernels.__file__, callable(kernels.get_kernel)],
    "ours": [ours.__file__, callable(ours.key_aware_attention)],
    "transformers": [transformers.__file__, is_kernels_available()],
    "layer": model.layers[0].input_layernorm.kernel_layer_name,
    "output": list(model(torch.zeros(1, 3, dtype=torch.long)).last_hidden_state.shape),
}))
"""


@pytest.mark.parametrize("order", ["clone", "theirs first", "ours first"])
def test_a_package_named_kernels_is_found_beside_ours(tmp_path: Path, order: str):
    """Whatever folder is searched first: the clone's kernels/ is no package by that name. Ours brings nothing along."""
    package = tmp_path / "site" / "kernels" / "__init__.py"
    package.parent.mkdir(parents=True)
    package.write_text("def get_kernel(): pass\n")
    site = str(tmp_path / "site")
    paths = {"clone": [site], "theirs first": [site, str(ROOT)], "ours first": [str(ROOT), site]}[order]
    program = "import kernels, litedetr.kernels.bench as b, sys; print(kernels.__file__, b.__file__, *sys.modules)"
    folder = ROOT if order == "clone" else tmp_path  # `python -c` searches the current folder first
    theirs, ours, *modules = checked([sys.executable, "-c", program], folder, PYTHONPATH=os.pathsep.join(paths)).split()
    assert Path(theirs) == package
    assert Path(ours) == ROOT / "litedetr" / "kernels" / "bench" / "__init__.py"
    assert not {"torch", "numpy", "pydantic", "hydra", "litedetr.settings"} & set(modules)


@pytest.fixture(scope="module")
def downloaded(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The wheels of THEIRS."""
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("needs what transformers depends on: pip install -e .[backbones]")
    folder = tmp_path_factory.mktemp("downloaded")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "-d", folder]
    result = subprocess.run([*command, *THEIRS], capture_output=True, text=True)
    if result.returncode != 0 and any(reason in result.stderr for reason in NO_DOWNLOAD):
        pytest.skip(f"{' and '.join(THEIRS)} could not be downloaded: {result.stderr.strip().splitlines()[-1]}")
    assert result.returncode == 0, result.stderr
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_of_the_tree(tmp_path_factory.mktemp("tree"))


@pytest.mark.slow
@pytest.mark.skipif(int(version("setuptools").split(".")[0]) < 77, reason="the build needs setuptools 77")
@pytest.mark.parametrize("theirs_first", [True, False], ids=["theirs first", "ours first"])
@pytest.mark.parametrize("editable", [True, False], ids=["editable", "wheel"])
def test_both_in_one_environment(
    tree: Path, downloaded: list[Path], tmp_path: Path, editable: bool, theirs_first: bool
):
    python = environment(tmp_path)
    if editable:
        ours = ["--editable", tree]
    else:
        names = checked([sys.executable, "-c", BUILD], tree).split()
        ours = [tree / "dist" / next(name for name in names if name.endswith(".whl"))]
    for what in (downloaded, ours) if theirs_first else (ours, downloaded):
        install(python, *what)

    for folder in (tmp_path, tree):  # the tree is the current folder where scripts are run
        found = json.loads(checked([python, "-c", USE], folder, OMP_NUM_THREADS="1").splitlines()[-1])
        for name in ("theirs", "transformers"):
            file, works = found[name]
            assert Path(file).is_relative_to(tmp_path), name
            assert works, name
        file, works = found["ours"]
        assert Path(file).is_relative_to(tree if editable or folder == tree else tmp_path)
        assert works
        assert found["layer"] == "RMSNorm"
        assert found["output"] == [1, 3, 16]
