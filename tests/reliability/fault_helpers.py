"""The scripts as processes that tests stop, starve and kill, and what a finished run leaves, to be compared."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from test_scripts import ROOT, TINY, command
from test_trainer import TIMES

from litedetr.engine.checkpoint import load_checkpoint

# 12 steps and 4 evaluations, bit for bit the same each time.
REPEATABLE = [*TINY, "schedule.max_epochs=4", "trainer.checkpoint_every=1", "trainer.deterministic=true"]
PATIENCE = 600.0  # seconds, on a busy machine

_processes = multiprocessing.get_context("forkserver")


class Script:
    """scripts/<name>.py in `folder`, in a process of its own.

    fresh: as a user starts it; otherwise forked from a process that has imported everything, which is quicker.
    file_limit: bytes that no file may exceed, as on a full disk. stdout and stderr go to files in `folder`.
    """

    def __init__(
        self, folder: Path, name: str, *settings: str, fresh: bool = False, file_limit: int | None = None
    ) -> None:
        self.folder = folder
        if fresh:
            assert file_limit is None
            with (folder / "stdout").open("w") as stdout, (folder / "stderr").open("w") as stderr:
                child = subprocess.Popen(command(name, *settings), cwd=folder, stdout=stdout, stderr=stderr)
            self.pid, self.exit_code = child.pid, child.poll
        else:
            multiprocessing.set_forkserver_preload([__name__, "hydra", "litedetr.engine.build_trainer"])
            child = _processes.Process(target=_run, args=(folder, name, settings, file_limit))
            child.start()
            self.pid, self.exit_code = child.pid, lambda: child.exitcode

    def kill(self, signum: int) -> None:
        assert self.pid > 1
        with suppress(ProcessLookupError):  # it may have come to its end meanwhile
            os.kill(self.pid, signum)

    def end(self) -> int:
        """Wait for the end; the exit code, -n after a deadly signal n."""
        deadline = time.monotonic() + PATIENCE
        while self.exit_code() is None:
            assert time.monotonic() < deadline, f"no end after {PATIENCE} s\n{self.stderr}"
            time.sleep(0.01)
        return self.exit_code()

    def wait_for(self, condition: Callable[[], bool], pause: float = 0.0) -> bool:
        """Until `condition` holds; False where the process ended before."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if self.exit_code() is not None:
                return False
            assert time.monotonic() < deadline, self.stderr
            time.sleep(pause)
        return True

    @property
    def stdout(self) -> str:
        return (self.folder / "stdout").read_text()

    @property
    def stderr(self) -> str:
        return (self.folder / "stderr").read_text()

    @property
    def error(self) -> str:
        """The one line that the user is told."""
        lines = [line for line in self.stderr.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.stderr
        assert "Traceback" not in self.stderr
        return lines[0]


def _run(folder: Path, name: str, settings: tuple[str, ...], file_limit: int | None) -> None:
    multiprocessing.set_start_method("fork", force=True)  # for its loader processes, as where a user starts it
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs are without
    os.chdir(folder)
    for descriptor, file in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    if file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    script = ROOT / "scripts" / f"{name}.py"
    sys.argv = [str(script), *settings]
    sys.path.insert(0, str(script.parent))
    runpy.run_path(str(script), run_name="__main__")


def records(folder: Path) -> list[dict[str, Any]]:
    """All lines of metrics.jsonl in their order, but for how fast it went."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def left_by(folder: Path) -> dict[str, Any]:
    """What a finished run leaves: all of both checkpoints, metrics, results."""
    return {
        "last": asdict(load_checkpoint(folder / "last.pt")),
        "best": asdict(load_checkpoint(folder / "best.pt")),
        "metrics": records(folder),
        "results": json.loads((folder / "results.json").read_text()),
    }


def assert_identical(mine: Any, theirs: Any, where: str = "") -> None:
    """To the last bit of every tensor."""
    if isinstance(theirs, dict):
        assert mine.keys() == theirs.keys(), where
        for name in theirs:
            assert_identical(mine[name], theirs[name], f"{where}.{name}")
    elif isinstance(theirs, torch.Tensor):
        assert torch.equal(mine, theirs), where
    else:
        assert mine == theirs, where


def assert_tidy(folder: Path) -> None:
    """No temporary files stay behind."""
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []
