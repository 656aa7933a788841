"""NVIDIA's programs as the report calls them, each played by a script of its name."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from litedetr.tools.gpu_report.plan import Context
from litedetr.tools.gpu_report.steps import machine

pytest.importorskip("triton")

from litedetr.tools.gpu_report.steps import nvidia_tools  # it needs Triton

UUID = "01234567-89ab-cdef-0123-456789abcdef"
SAYS = """#!{python}
import sys, time
{program}
"""


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Lays a program of Python under a name on the PATH, which has no other ones."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def lay(name: str, program: str) -> None:
        path = tmp_path / name
        path.write_text(SAYS.format(python=sys.executable, program=program))
        path.chmod(0o755)

    return lay


@pytest.fixture
def driver(play, monkeypatch: pytest.MonkeyPatch):
    """What machine._driver finds where nvidia-smi is a program."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=UUID))

    def found(program: str) -> dict[str, str]:
        play("nvidia-smi", program)
        return machine._driver(torch.device("cuda"))

    return found


def test_the_driver_is_asked_for_this_card(driver):
    """Of several; what it does not know is no number."""
    values = "580.1, 96.00.AA, 700.00 W, 1980 MHz, [N/A], 5"
    found = driver(f"assert sys.argv[1] == '--id=GPU-{UUID}', sys.argv\nprint('{values}')")
    assert found == {
        "driver_version": "580.1",
        "vbios_version": "96.00.AA",
        "power.limit": "700.00 W",
        "clocks.max.sm": "1980 MHz",
        "clocks.max.mem": "[N/A]",
        "pcie.link.gen.max": "5",
    }


@pytest.mark.parametrize(
    ("program", "error"),
    [
        ("sys.exit('No devices were found')", "No devices were found"),
        ("print('No devices were found')", "No devices were found"),
        ("time.sleep(60)", "nvidia-smi did not answer within 0.2 s"),
    ],
)
def test_a_driver_that_does_not_answer_is_told(driver, monkeypatch: pytest.MonkeyPatch, program: str, error: str):
    monkeypatch.setattr(machine, "DRIVER_SECONDS", 0.2 if "sleep" in program else 20)
    assert driver(program) == {"error": error}


def told(context: Context) -> list[dict]:
    rows = []
    nvidia_tools.measure_step(context, rows.append)
    return rows


@pytest.fixture
def on_a_gpu(tmp_path: Path) -> Context:
    return Context("cuda", False, 40.0, tmp_path, lambda *_: {})


def test_tools_watch_some_calls(play, on_a_gpu: Context):
    play("compute-sanitizer", "print(*sys.argv[1:])\nsys.exit(9 if 'racecheck' in sys.argv else 0)")
    play("ncu", 'print(\'"ID","Metric Name","Metric Unit","Metric Value"\\n"0","a.sum","us","2"\')')
    memory, races, *counters = told(on_a_gpu)
    assert (memory["check"], memory["clean"], memory["said"]) == ("memcheck", True, "")
    assert (races["check"], races["clean"], races["exit_code"]) == ("racecheck", False, 9)
    assert races["said"].startswith("--tool racecheck --error-exitcode 9 ")
    assert races["said"].endswith("-m litedetr.tools.gpu_report.steps.kernel_calls cuda tiny")
    assert [(row["kernel"], row["counter"], row["value"]) for row in counters] == [
        ("forward_kernel", "a.sum", "2"),
        ("backward_kernel", "a.sum", "2"),
    ]


def test_a_tool_that_hangs_leaves_time_for_the_others(play, on_a_gpu: Context, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(nvidia_tools, "SPARE_SECONDS", on_a_gpu.seconds - 8.0)
    play("compute-sanitizer", "print('begun', flush=True)\nif 'memcheck' in sys.argv: time.sleep(60)")
    memory, races = told(on_a_gpu)
    assert (memory["clean"], memory["exit_code"], memory["said"]) == (None, None, "begun")
    assert races["clean"]
