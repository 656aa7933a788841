"""Steps that crash, hang and are killed, and what a report makes of them."""

import json
import math
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from litedetr.settings import ConfigError
from litedetr.tools.gpu_report import child_process
from litedetr.tools.gpu_report import report as module
from litedetr.tools.gpu_report.page import PAGE, write_page
from litedetr.tools.gpu_report.plan import STEPS
from litedetr.tools.gpu_report.report import Report, ReportConfig, folder_name
from litedetr.tools.gpu_report.rows_file import NAME, Rows, latest, read_rows

ROOT = Path(__file__).parents[3]
ACTING = (sys.executable, str(Path(__file__).parent / "acting_step.py"))
SAYING_HOW_LONG = ("docs/gpu.md", "README.md", "scripts/gpu_report.py")


@pytest.fixture
def make_report(tmp_path, monkeypatch):
    """A report whose steps act, on a machine without a GPU."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(module, "gpu_name", lambda: "")

    def make(**settings) -> Report:
        return Report.prepare(ReportConfig(rehearse=True, output=str(tmp_path), **settings), ACTING)

    return make


def is_alive(pid: int) -> bool:
    """A process that has ended but was not asked for is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(condition, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_a_step_that_crashes_or_raises_is_told_and_takes_none_along(make_report):
    report = make_report(steps=("machine", "attention", "host", "step"))
    ends = {step.name: outcome for step, outcome in report.steps_in_turn()}
    assert {name: end.status for name, end in ends.items()} == {
        "machine": "done",
        "attention": "failed",
        "host": "failed",
        "step": "done",
    }
    assert "SIGSEGV" in ends["attention"].reason
    assert ends["host"].reason == "exit code 1; last line: ValueError: no such thing"
    rows = latest(read_rows(report.folder))
    assert all(found[0]["kind"] == "act" and found[-1]["kind"] == "outcome" for found in rows.values())
    assert "| host | failed |" in write_page(report.folder).read_text()


def test_a_step_that_hangs_ends_at_the_budget_with_all_that_it_started(make_report):
    report = make_report(steps=("suite", "host"), budget=module.PAGE_SECONDS + module.LEAST_SECONDS + 1)
    start = time.monotonic()
    ends = {step.name: outcome for step, outcome in report.steps_in_turn()}
    assert time.monotonic() - start < report.config.budget + 5
    assert ends["suite"].status == "timed out"
    assert ends["host"].status == "not reached"
    pids = [row["pid"] for row in read_rows(report.folder) if row["kind"] == "act"]
    assert len(pids) == 2
    assert until(lambda: not any(map(is_alive, pids)))


def test_a_step_that_prints_without_end_is_ended_before_the_disk_is_full(make_report, monkeypatch):
    monkeypatch.setattr(child_process, "MOST_OUTPUT", 2**20)
    report = make_report(steps=("training",))
    ((step, outcome),) = report.steps_in_turn()
    assert outcome.status == "failed"
    assert outcome.reason.startswith("ended after 1 MiB of output; last line: on and on")
    assert report.log(step).stat().st_size == 2**20


def test_a_signal_without_a_name_is_told_by_number(make_report):
    ((_, outcome),) = make_report(steps=("autotune",)).steps_in_turn()
    assert outcome.reason == "signal 40; no output"


def test_steps_that_cannot_run_here_say_what_they_need(make_report, monkeypatch):
    monkeypatch.setattr(module.Step, "obstacle", lambda step, rehearse: "needs what is not there")
    ((_, outcome),) = make_report(steps=("machine",)).steps_in_turn()
    assert (outcome.status, outcome.reason) == ("skipped", "needs what is not there")


DRIVER = """
import sys
from litedetr.tools.gpu_report import child_process
from litedetr.tools.gpu_report import report as module
from litedetr.tools.gpu_report.report import ReportConfig
module.gpu_name = lambda: ""
config = ReportConfig(rehearse=True, output=sys.argv[1], steps=(sys.argv[3],))
list(module.Report.prepare(config, (sys.executable, sys.argv[2])).steps_in_turn())
"""


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_a_random_moment_it_leaves_valid_rows_and_no_process(tmp_path, seed):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", DRIVER, str(tmp_path), ACTING[1], "detectors"]
    process = subprocess.Popen(command, env=environment)
    folder = tmp_path / module.REHEARSAL
    assert until(lambda: len(read_rows(folder)) > 2)
    time.sleep(random.Random(seed).random() * 0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    pid = read_rows(folder)[0]["pid"]
    assert until(lambda: not is_alive(pid))
    lines = (folder / NAME).read_text().splitlines()
    assert len(lines) == len(read_rows(folder)) > 2
    assert [row["number"] for row in read_rows(folder)[1:]] == list(range(len(lines) - 1))
    assert "| detectors | cut short |" in write_page(folder).read_text()


def test_a_step_that_keeps_pythons_lock_ends_with_a_report_that_is_killed(tmp_path):
    command = [sys.executable, "-c", DRIVER, str(tmp_path), ACTING[1], "tools"]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)})
    folder = tmp_path / module.REHEARSAL
    assert until(lambda: len(read_rows(folder)) == 1)
    time.sleep(0.3)
    process.kill()
    process.wait()
    pid = read_rows(folder)[0]["pid"]
    assert until(lambda: not is_alive(pid), 5) or os.kill(pid, signal.SIGKILL)


def test_two_reports_do_not_share_a_folder(make_report):
    first = make_report(steps=())
    with pytest.raises(ConfigError, match="output: expected a folder that no other report writes to"):
        make_report(steps=())
    first.lock.close()
    make_report(steps=())


@pytest.mark.parametrize("inside", ["", "rehearsal/logs", "rehearsal/rows.jsonl/"])
def test_a_folder_that_cannot_be_written_is_named(make_report, tmp_path, inside):
    top = tmp_path / "top"
    if inside.endswith("/"):
        (top / inside).mkdir(parents=True)
    else:
        (top / inside).parent.mkdir(parents=True, exist_ok=True)
        (top / inside).touch()
    with pytest.raises(ConfigError, match="output: expected a folder that can be written, got .*top"):
        Report.prepare(ReportConfig(rehearse=True, output=str(top)), ACTING)


def test_a_full_disk_is_told_and_leaves_the_page_that_was_there(tmp_path):
    folder = tmp_path / module.REHEARSAL
    folder.mkdir()
    (folder / NAME).write_bytes(b"\n" * 200)
    (folder / PAGE).write_text("of before")
    script = str(ROOT / "scripts" / "gpu_report.py")
    command = [sys.executable, script, "rehearse=true", f"output={tmp_path}", "steps=[machine]", "budget=1"]
    full = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (200, 200))
    done = subprocess.run(command, preexec_fn=full, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, f"error: {folder}: File too large\n")
    assert (folder / PAGE).read_text() == "of before"


def test_a_line_is_written_whole_where_the_system_takes_a_part(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, text: write(file, text[:7]))
    Rows(tmp_path, "today", "machine").append({"kind": "act"})
    assert len(read_rows(tmp_path)) == 1


def test_a_torn_line_spoils_only_itself(tmp_path):
    rows = Rows(tmp_path, "today", "machine")
    rows.append({"kind": "act", "number": 1})
    with (tmp_path / NAME).open("a") as file:
        file.write('{"report": "today", "st')
    rows.append({"kind": "act", "number": float("inf")})
    assert [row["number"] for row in read_rows(tmp_path)] == [1, "inf"]


@pytest.mark.parametrize("row", [{"kind": "act", "step": 3}, {"kind": "act", "report": 3}, {"number": 3}])
def test_rows_keep_what_tells_them_apart(tmp_path, row):
    with pytest.raises(ValueError, match="expected a kind, and neither report nor step"):
        Rows(tmp_path, "today", "machine").append(row)


def test_a_later_report_completes_an_earlier_one(tmp_path):
    for begun, step, number in [("1", "machine", 1), ("1", "host", 2), ("2", "host", 3), ("2", "host", 4)]:
        Rows(tmp_path, begun, step).append({"kind": "act", "number": number})
    found = {step: [row["number"] for row in rows] for step, rows in latest(read_rows(tmp_path)).items()}
    assert found == {"machine": [1], "host": [3, 4]}


def test_a_report_that_did_not_reach_a_step_keeps_its_figures(tmp_path):
    ran = [{"kind": "act", "number": 1}, {"kind": "outcome", "status": "done"}]
    for begun, step, rows in [
        ("1", "machine", ran),
        ("1", "host", [{"kind": "outcome", "status": "not reached"}]),
        ("2", "machine", [{"kind": "outcome", "status": "not reached"}]),
        ("2", "host", [{"kind": "outcome", "status": "skipped"}]),
    ]:
        for row in rows:
            Rows(tmp_path, begun, step).append(row)
    found = latest(read_rows(tmp_path))
    assert [row.get("number") for row in found["machine"]] == [1, None]
    assert [row["status"] for row in found["host"]] == ["skipped"]


def test_without_a_gpu_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "gpu_name", lambda: "")
    with pytest.raises(ConfigError, match="expected a GPU that PyTorch can use .*rehearse=true"):
        Report.prepare(ReportConfig(output=str(tmp_path)), ACTING)
    assert not list(tmp_path.iterdir())


def test_a_driver_that_breaks_is_named(monkeypatch):
    monkeypatch.setattr(module, "GPU_NAME", "raise RuntimeError('no driver')")
    with pytest.raises(ConfigError, match="cannot be asked for the GPU: RuntimeError: no driver"):
        module.gpu_name()


def test_folders_are_named_by_the_card():
    assert folder_name("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"


def test_settings_come_as_name_and_value():
    assert ReportConfig.from_arguments([]) == ReportConfig()
    given = ["budget=480", "rehearse=true", "steps=[machine, host]", "output=elsewhere"]
    assert ReportConfig.from_arguments(given) == ReportConfig(480, True, ("machine", "host"), "elsewhere")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("budget=soon", "budget"),
        ("budget=0", "budget: expected at least 1, got 0"),
        ("steps=[machines]", "steps: expected null or some of machine, .*got"),
        ("bugdet=3", "bugdet"),
        pytest.param(f"budget={'1' * 5000}", "budget: expected an integer", id="digits"),
        ("rehearse", "name=value, got 'rehearse'"),
    ],
)
def test_settings_that_cannot_work_are_named(argument, message):
    with pytest.raises(ConfigError, match=message):
        ReportConfig.from_arguments([argument])


def test_rows_are_json(tmp_path):
    Rows(tmp_path, "today", "machine").append({"kind": "act", "text": 'a "b"\n|c'})
    assert json.loads((tmp_path / NAME).read_text())["text"] == 'a "b"\n|c'
    assert '| text | a "b" \\|c |' in write_page(tmp_path).read_text()


def test_the_docs_name_every_step_and_its_limit():
    table = re.findall(r"^\| `(\w+)` \|.*\| (\d+) s \|$", (ROOT / "docs/gpu.md").read_text(), re.MULTILINE)
    assert table == [(step.name, str(step.seconds)) for step in STEPS]


@pytest.mark.parametrize("file", SAYING_HOW_LONG)
def test_the_docs_say_how_long_all_steps_may_take(file):
    minutes = math.ceil(sum(step.seconds for step in STEPS) / 60)
    assert f"{minutes} minutes" in (ROOT / file).read_text()


def test_the_help_lists_the_steps():
    assert ", ".join(step.name for step in STEPS) in (ROOT / "scripts/gpu_report.py").read_text()
