"""The whole report at tiny sizes on a CPU: every step runs, every row and the page come out."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from litedetr.tools.gpu_report.page import PAGE
from litedetr.tools.gpu_report.plan import STEPS, Context
from litedetr.tools.gpu_report.rows_file import latest, read_rows

pytest.importorskip("triton")

ROOT = Path(__file__).parents[3]
OTHERS = ("hydra", "omegaconf", "pycocotools", "scipy", "PIL", "tqdm", "tensorboard", "matplotlib", "transformers")
NEEDY_STEPS = [step.name for step in STEPS if set(step.packages) & set(OTHERS)]
WITHOUT_OTHERS = f"import sys\nsys.modules.update(dict.fromkeys({OTHERS}))\n"
QUICK = f"""
import os, sys
if os.environ.get("TRITON_INTERPRET") == "1":
    sys.path.append({str(ROOT / "tests" / "kernels")!r})
    import pytest
    from quick_interpreter import patch_once
    patch_once(pytest.MonkeyPatch())
"""
KINDS = {
    "machine": {"versions", "card", "ceilings"},
    "attention": {"attention"},
    "suite": {"tests"},
    "host": {"host"},
    "detectors": {"detectors", "settings"},
    "step": {"training step", "waits", "largest kernels"},
    "memory_access": {"atomics", "gathers"},
    "training": {"evaluations", "default run"},
    "tools": {"compute-sanitizer", "ncu"},
    "autotune": {"launches"},
}


def report(folder: Path, *settings: str, path: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "gpu_report.py"), "rehearse=true", f"output={folder}", *settings]
    environment = os.environ | {"HOME": str(folder)}  # where the embedded data is kept
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (path, str(ROOT))))
    if path:  # packages that are installed but hidden would be asked for pytest's plugins
        environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Of two reports: the kernels' steps where nothing but torch, Triton, NumPy and pytest is; then the others."""
    top = tmp_path_factory.mktemp("report")
    bare, quick = (tmp_path_factory.mktemp(name) for name in ("bare", "quick"))
    (bare / "sitecustomize.py").write_text(WITHOUT_OTHERS + QUICK)
    (quick / "sitecustomize.py").write_text(QUICK)
    first = report(top, path=str(bare))
    assert first.returncode == 0, first.stdout + first.stderr
    skipped = [line for line in first.stdout.splitlines() if " skipped " in line]
    assert all("which are not installed" in line for line in skipped)
    assert [line.split()[0] for line in skipped] == NEEDY_STEPS, first.stdout
    second = report(top, f"steps=[{','.join(NEEDY_STEPS)}]", path=str(quick))
    assert second.returncode == 0, second.stdout + second.stderr
    return top / "rehearsal"


@pytest.mark.parametrize("name", [step.name for step in STEPS])
def test_every_step_runs_and_tells_all_its_kinds(folder, name):
    rows = latest(read_rows(folder))[name]
    assert rows[-1]["kind"] == "outcome"
    assert rows[-1]["status"] == "done", rows[-1]["reason"]
    assert {row["kind"] for row in rows[:-1]} >= KINDS[name]


def test_the_page_shows_every_step_and_says_that_it_is_a_rehearsal(folder):
    page = (folder / PAGE).read_text()
    assert all(f"## {step.title}\n" in page for step in STEPS)
    assert "A rehearsal on a CPU" in page
    assert len(list(folder.glob("*.png"))) == 3


def test_a_gpu_that_is_here_is_what_is_rehearsed_on(tmp_path, monkeypatch):
    """Compiled kernels take no tensors of the CPU."""
    from litedetr.tools.gpu_report.steps import autotune

    devices = []
    monkeypatch.setattr(autotune, "tune", lambda job, device, *_, **__: devices.append(device) or ())
    autotune.measure_step(Context("cuda", True, 9.0, tmp_path, lambda *_: {}), pytest.fail)
    assert devices == [torch.device("cuda")]


def test_the_fused_kernels_are_what_is_rehearsed(folder):
    rows = latest(read_rows(folder))
    assert {row["backend"] for row in rows["attention"] if row["kind"] == "attention"} == {"triton"}
