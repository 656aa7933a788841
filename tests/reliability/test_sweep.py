"""-m: every job runs, whatever becomes of the others."""

import os
import signal
import sys
import threading
from argparse import Namespace
from pathlib import Path

import pytest
from fault_helpers import Script
from hydra._internal.utils import get_args_parser

from litedetr.cli.overrides import parse_overrides
from litedetr.cli.sweep import SweepError, asks_for_sweep, jobs_of, sweep
from litedetr.faults.messages import ERROR_FILE, left_for_sweep
from litedetr.faults.signals import Interrupted
from litedetr.settings import ConfigError

# A script that does what its first override says, and notes that it ran.
JOB = f"""
import os, signal, sys, time
what = sys.argv[1].partition("=")[2]
with open("ran", "a") as file:
    print(what, sys.argv[-1], file=file)
if what == "sleep":
    time.sleep(60)
if what == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if what == "told":
    with open(os.environ["{ERROR_FILE}"], "w") as file:
        file.write("a: expected b, got c")
sys.exit(what != "well")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "job.py")])
    (tmp_path / "job.py").write_text(JOB)
    return tmp_path


def parsed(*argv: str) -> tuple[Namespace, list]:
    arguments = get_args_parser().parse_args(["-m", *argv])
    return arguments, parse_overrides(arguments.overrides, is_sweep=True)


def test_all_jobs_run_and_those_that_failed_are_listed(folder: Path, capfd: pytest.CaptureFixture[str]):
    with pytest.raises(SweepError) as failed:
        sweep(*parsed("what=told,killed,well,silent,well", "seed=1"))
    assert (folder / "ran").read_text().split("\n")[:-1] == [
        f"{what} hydra.job.num={number}" for number, what in enumerate(["told", "killed", "well", "silent", "well"])
    ]
    assert str(failed.value).splitlines() == [
        "3 of 5 jobs failed:",
        "  job 1 (what=told): a: expected b, got c",
        "  job 2 (what=killed): ended by SIGKILL",
        "  job 4 (what=silent): exit code 1",
    ]
    assert "job 3 of 5: what=well" in capfd.readouterr().out


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_running_job_and_the_sweep(folder: Path, signum: int):
    def interrupt() -> None:
        while not (folder / "ran").exists():
            pass
        os.kill(os.getpid(), signum)

    before = signal.getsignal(signum)
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(Interrupted, match=r"SIG\w+: the sweep ends with job 1 of 2") as stop:
        sweep(*parsed("what=sleep,well"))
    thread.join()
    assert stop.value.signum == signum
    assert (folder / "ran").read_text() == "sleep hydra.job.num=0\n"
    assert signal.getsignal(signum) is before


def test_jobs_are_all_combinations():
    _, overrides = parsed("a=1,2", 'b="x,y"', "+c=u,v")
    assert [job.overrides for job in jobs_of(overrides)] == [
        (f"a={a}", 'b="x,y"', f"+c={c}") for a in (1, 2) for c in ("u", "v")
    ]
    assert [job.name for job in jobs_of(overrides)] == ["a=1 +c=u", "a=1 +c=v", "a=2 +c=u", "a=2 +c=v"]


def test_a_glob_means_the_choices_of_its_group():
    _, overrides = parsed("encoder=glob(h*)", "seed=1")
    assert [job.name for job in jobs_of(overrides)] == ["encoder=h2l2", "encoder=h3l1"]


@pytest.mark.parametrize("argv", [["a=1"], ["-m", "a=1", "hydra/launcher=joblib"], ["-m", "--cfg", "job"]])
def test_other_things_are_left_to_hydra(argv: list[str]):
    assert not asks_for_sweep(get_args_parser().parse_args(argv))


def test_what_a_job_says_of_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of its own errors, and of those that Hydra tells before it exits."""
    monkeypatch.setenv(ERROR_FILE, str(tmp_path / "error"))

    def left(raise_it: BaseException, cause: Exception | None = None) -> str:
        raise_it.__context__ = cause
        with pytest.raises(type(raise_it)), left_for_sweep():
            raise raise_it
        return (tmp_path / "error").read_text(encoding="utf-8")

    assert left(ConfigError("a: expected b, got 猫\nmore")) == "a: expected b, got 猫"
    assert left(RuntimeError("broken")) == "RuntimeError: broken"
    assert left(SystemExit(1), ConfigError("told by Hydra")) == "told by Hydra"


def test_a_sweep_of_a_script(tmp_path: Path):
    ended = Script(tmp_path, "flops", "-m", "rows=this", "size=small", "num_classes=0,2")
    assert ended.end() == 2
    assert "\n  job 1 (num_classes=0): num_classes: expected at least 1, got 0\n" in ended.stderr
    assert "error: 1 of 2 jobs failed:" in ended.stderr
    assert "job 2 of 2: num_classes=2" in ended.stdout
    assert len(list(tmp_path.rglob("flops.csv"))) == 1
