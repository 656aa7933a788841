"""Signals once and twice, closed terminals, readers that go away: what was trained is saved, and said in one line."""

import os
import pty
import signal
import subprocess
import time
from pathlib import Path

import pytest
from engine_helpers import run_config, train
from fault_helpers import PATIENCE, REPEATABLE, Script, assert_identical, assert_tidy, left_by
from test_scripts import TINY, command

from litedetr.engine.build_trainer import build_trainer
from litedetr.engine.checkpoint import load_checkpoint
from litedetr.engine.distributed import Ranks
from litedetr.engine.run_folder import RunFolder
from litedetr.faults.signals import SIGNALS, Interrupted, StopRequest


def step_of(folder: Path) -> int:
    return load_checkpoint(folder / "last.pt").progress.step


@pytest.mark.parametrize("signals", [[signal.SIGTERM] * 2, [signal.SIGINT, signal.SIGTERM], [signal.SIGHUP]])
def test_signals_while_a_checkpoint_is_written_let_it_be_finished(
    cache: Path, tmp_path: Path, one_rank: Ranks, monkeypatch: pytest.MonkeyPatch, signals: list[int]
):
    """The run leaves after the next step, where it saves once more; continued it ends as if never stopped."""
    config = run_config(cache, trainer={"checkpoint_every": 2})
    trainer = build_trainer(config, RunFolder(tmp_path / "stopped", None, "test"), one_rank)
    replace = os.replace

    def interrupted(source: Path, target: Path) -> None:
        if target.name == "last.pt":
            monkeypatch.undo()
            for number in signals:
                os.kill(os.getpid(), number)
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(Interrupted, match="left after step 3, saved in .*last.pt; resume=.*stopped continues") as stop:
        trainer.run()
    assert stop.value.signum == signals[-1]
    assert step_of(tmp_path / "stopped") == 3
    assert_tidy(tmp_path / "stopped")
    for name in ("stopped", "whole"):
        train(config, tmp_path / name, one_rank)
    assert_identical(left_by(tmp_path / "stopped"), left_by(tmp_path / "whole"))


def test_nohup_is_respected():
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
        assert stop.signum == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, previous)
    assert signal.SIGHUP in SIGNALS


def started(tmp_path: Path, cache: Path) -> list[str]:
    return [
        *TINY,
        f"data.shapes.cache={cache}",
        "trainer.checkpoint_every=1000",
        "trainer.evaluate_every=null",
        "schedule.max_epochs=1000",
        "run=foo",
    ]


def end_of(pid: int) -> int:
    """The status of a child that ends by itself."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


def test_a_run_saves_itself_when_its_terminal_is_closed(tmp_path: Path, cache: Path):
    """Its messages can no longer be written either."""
    pid, terminal = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may themselves run under nohup
        os.chdir(tmp_path)
        os.execv(command("train")[0], command("train", *started(tmp_path, cache)))
    metrics = tmp_path / "runs" / "foo" / "metrics.jsonl"
    while not metrics.exists():
        time.sleep(0.05)
    os.close(terminal)
    status = end_of(pid)
    steps = metrics.read_text().count('"train"')
    assert step_of(metrics.parent) == steps
    # The system sends it twice, and the second one may come when all is saved.
    assert os.waitstatus_to_exitcode(status) in (128 + signal.SIGHUP, -signal.SIGHUP)


@pytest.mark.slow
def test_a_run_saves_itself_on_ctrl_c_that_ends_the_reader_of_its_messages_too(tmp_path: Path, cache: Path):
    """As `train.py 2>&1 | tee log` and Ctrl-C, which tee gets as well."""
    child = subprocess.Popen(
        command("train", *started(tmp_path, cache)), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    metrics = tmp_path / "runs" / "foo" / "metrics.jsonl"
    while not metrics.exists():
        time.sleep(0.05)
    child.stdout.close()
    child.send_signal(signal.SIGINT)
    assert os.waitstatus_to_exitcode(end_of(child.pid)) == 128 + signal.SIGINT
    assert step_of(metrics.parent) == metrics.read_text().count('"train"')


@pytest.mark.slow
def test_a_run_goes_on_when_nobody_reads_its_messages(tmp_path: Path, cache: Path):
    settings = [*REPEATABLE, f"data.shapes.cache={cache}", "schedule.max_epochs=1", "run=foo"]
    child = subprocess.Popen(command("train", *settings), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    child.stdout.close()
    _, errors = child.communicate()
    assert (tmp_path / "runs" / "foo" / "results.json").exists()
    assert b"Traceback" not in errors
    assert b"Broken" not in errors


PRINTS = """
from litedetr.faults.messages import clear_errors

@clear_errors()
def main(cfg):
    for number in range({lines}):
        print(number)

main(None)
"""


@pytest.mark.parametrize("lines", [pytest.param(1, marks=pytest.mark.slow), 100_000])
def test_a_reader_that_has_enough_ends_any_script_silently(lines: int):
    """As `eval.py ... | head`; one line fails only when Python flushes at its end."""
    program = PRINTS.format(lines=lines)
    child = subprocess.Popen([command("eval")[0], "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    child.stdout.close()
    assert child.communicate()[1] == b""
    assert child.returncode == 128 + signal.SIGPIPE


def test_ctrl_c_before_and_beside_training_is_one_line(tmp_path: Path, cache: Path):
    """While the data set is drawn, which takes longest before the first step."""
    many = [*TINY, f"data.shapes.cache={tmp_path}", "data.shapes.num_train=100000", "run=foo"]
    script = Script(tmp_path, "train", *many)
    assert script.wait_for(lambda: any(tmp_path.glob(".shapes-*/train/*.jpg")), pause=0.01)
    script.kill(signal.SIGINT)
    assert script.end() == 128 + signal.SIGINT
    assert script.stderr == "SIGINT: left\n"
    assert not list(tmp_path.glob(".shapes-*"))
