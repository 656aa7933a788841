"""On a machine that is not idle: threads that wait for each other must not spin (what that gains: neighbour.py)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
PROCESS = "gpu_report"  # leaves torch to the processes of its steps
NAMES = sorted(path.stem for path in SCRIPTS.glob("[a-z]*.py") if path.stem != PROCESS)
# Imports a script up to the moment when torch would be loaded, and tells what the environment says then.
IMPORT = """
import os, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print({setting: os.environ.get(setting) for setting in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")})
            sys.exit()

sys.meta_path.insert(0, Watch())
__import__(sys.argv[1])
"""


def settings_when_torch_loads(name: str, **environment: str) -> dict[str, str | None]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("GOMP_", "OMP_"))}
    command = [sys.executable, "-c", IMPORT, name]
    printed = subprocess.run(command, cwd=SCRIPTS, env=clean | environment, capture_output=True, text=True, check=True)
    return eval(printed.stdout)


@pytest.mark.parametrize("name", NAMES)
def test_every_script_limits_spinning_before_torch_is_loaded(name: str):
    assert settings_when_torch_loads(name) == {"GOMP_SPINCOUNT": "4000", "OMP_WAIT_POLICY": None}


@pytest.mark.parametrize("name", ["gpu_report", "litedetr.tools.gpu_report.step_process"])
def test_a_report_loads_torch_in_the_steps_themselves_only(name: str):
    """Whose process limits spinning before, and which may find a driver that hangs."""
    code = f"import sys; import {name}; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=SCRIPTS).returncode == 0


@pytest.mark.parametrize(("setting", "value"), [("OMP_WAIT_POLICY", "active"), ("GOMP_SPINCOUNT", "infinity")])
def test_what_the_environment_says_stays(setting: str, value: str):
    found = settings_when_torch_loads("train", **{setting: value})
    assert found == {"GOMP_SPINCOUNT": None, "OMP_WAIT_POLICY": None} | {setting: value}


@pytest.mark.skipif(sys.platform != "linux", reason="PyTorch has libgomp on Linux only")
def test_libgomp_takes_it():
    """Which reads the environment when it is loaded, and tells so where it is asked to."""
    code = "from litedetr.threads import limit_spinning; limit_spinning(); import torch; torch.ones(2)"
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("GOMP_", "OMP_"))}
    told = subprocess.run(
        [sys.executable, "-c", code],
        cwd=SCRIPTS.parent,
        env=clean | {"OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    assert "GOMP_SPINCOUNT = '4000'" in told
