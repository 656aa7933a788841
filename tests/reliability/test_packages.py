"""What is asked of other packages: bounds that were tried, and nothing that a use does not need."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # which pytest brings

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
USED = ("dev", "export", "backbones", "pretrained")
REQUIREMENTS = [
    requirement
    for requirement in [*PROJECT["dependencies"], *(x for name in USED for x in EXTRAS[name])]
    if not requirement.startswith("litedetr[")
]
BOUNDS = re.compile(r"([\w-]+)>=([\d.]+),<([\d.]+)(; .+)?")

# Everything that can be absent is; imported is the whole of the library.
PROGRAM = """
import json, sys, threading
for name in ("triton", "transformers", "onnx", "onnxscript", "onnxruntime"):
    sys.modules[name] = None
before = set(sys.modules)
import litedetr.engine
import litedetr.kernels.functional
imported = {name.split(".")[0] for name in set(sys.modules) - before}
threads = threading.active_count()

import torch
from litedetr.kernels.bench.workloads import Workload
from litedetr.tools.export.file_formats import Onnx
from litedetr.models.detector_config import BackboneConfig
from litedetr.models.backbones import build_backbone

def error(call):
    try:
        call()
    except Exception as raised:
        return f"{type(raised).__name__}: {raised}"

workload = Workload("key_aware_shared", torch.float32, None, shapes=((4, 4), (2, 2)), heads=2, channels=8, points=2)
inputs = workload.inputs("cpu")
attend = litedetr.kernels.functional.attend
print(json.dumps({
    "imported": sorted(imported),
    "threads": threads,
    "cuda": torch.cuda.is_initialized(),
    "difference": (attend(inputs) - attend(inputs, "reference")).abs().max().item(),
    "triton": error(lambda: attend(inputs, "triton")),
    "transformers": error(lambda: build_backbone(BackboneConfig("transformers:swin", frozen_stages=0), 3, False)),
    "onnx": error(Onnx().require_tools),
}))
"""


def test_every_requirement_has_both_bounds():
    assert [requirement for requirement in REQUIREMENTS if not BOUNDS.fullmatch(requirement)] == []


def test_the_oldest_are_the_lower_bounds():
    """tests/oldest.txt: what an environment of the oldest of everything is installed with."""
    oldest = [re.sub(r">=([\d.]+).*", r"==\1", requirement) for requirement in REQUIREMENTS]
    assert (ROOT / "tests" / "oldest.txt").read_text().splitlines() == oldest


@pytest.fixture(scope="module")
def bare() -> dict[str, object]:
    """What PROGRAM found where no package is that can be absent."""
    result = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_a_cpu_needs_no_triton(bare):
    assert bare["difference"] < 1e-5
    assert (
        bare["triton"] == "ValueError: backend: 'triton' needs the package triton, which is not installed; use 'auto'"
    )


def test_an_absent_extra_is_named(bare):
    assert bare["transformers"].endswith("needs the optional packages: pip install litedetr[backbones]")
    assert bare["onnx"].endswith("needs onnx, onnxscript, onnxruntime: pip install 'litedetr[export]'")


def test_importing_brings_nothing_heavy_and_starts_nothing(bare):
    assert not {"matplotlib", "tensorboard", "hydra", "omegaconf"} & set(bare["imported"])
    assert (bare["threads"], bare["cuda"]) == (1, False)
