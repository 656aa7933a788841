"""Measures the steps one after the other within the budget, each in a process of its own."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from litedetr.paths import CLONE, user_path
from litedetr.settings import ConfigError, Count, Flag, Many, Maybe, Text, from_mapping, require, settings
from litedetr.tools.gpu_report.child_process import Outcome, in_child
from litedetr.tools.gpu_report.plan import REHEARSAL, STEPS, Step, StepCall
from litedetr.tools.gpu_report.rows_file import KIND, NAME, OUTCOME, Rows
from litedetr.tools.plain_settings import plain_settings

PAGE_SECONDS = 5  # of the budget, for the page and its plots
LEAST_SECONDS = 5  # with fewer left, no step begins
QUESTION_SECONDS = 120  # for the name of the GPU; the first use of a driver can take half a minute

WORKER = (sys.executable, "-m", "litedetr.tools.gpu_report.step_process")
GPU_NAME = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"


@settings()
class ReportConfig:
    """Settings of scripts/gpu_report.py, `name=value`, read without Hydra, which may not be installed."""

    budget: Maybe[Count] = None  # seconds for all steps; null: each takes up to its own limit
    rehearse: Flag = False  # every step at tiny sizes, on a CPU in Triton's interpreter if there is no GPU
    steps: Maybe[Many[Text]] = None  # names; null: all; []: none, only make the page from the rows that are there
    output: Text = "runs/gpu_report"  # the folder; each GPU has one of its own in it

    def __post_init__(self) -> None:
        names = [step.name for step in STEPS]
        unknown = [name for name in self.steps or () if name not in names]
        require(not unknown, "steps", f"null or some of {', '.join(names)}", unknown)

    @classmethod
    def from_arguments(cls, arguments: Sequence[str]) -> ReportConfig:
        """Raises ConfigError for an argument that is not `name=value`, an unknown setting, or a wrong value."""
        return from_mapping(cls, plain_settings(arguments))


@dataclass(frozen=True)
class Report:
    """What is measured, where, and until when."""

    config: ReportConfig
    folder: Path
    begun: str  # when, by which the rows of this report are told from others'
    end: float  # of the budget, by the monotonic clock
    device: str  # of the steps: cuda or cpu
    worker: tuple[str, ...]
    lock: BinaryIO  # see `_locked`

    @classmethod
    def prepare(cls, config: ReportConfig, worker: tuple[str, ...] = WORKER) -> Report:
        """worker: the command that measures a step.

        Raises ConfigError if there is no GPU, unless it is a rehearsal, and for a folder that cannot be used.
        """
        end = float("inf") if config.budget is None else time.monotonic() + config.budget - PAGE_SECONDS
        gpu = gpu_name()
        if not gpu and not config.rehearse:
            raise ConfigError(
                "gpu_report: expected a GPU that PyTorch can use (torch.cuda.is_available()), got none; "
                "rehearse=true tries every step at tiny sizes on a CPU"
            )
        name = REHEARSAL if config.rehearse else folder_name(gpu)
        folder = user_path(config.output).resolve() / name
        lock = _locked(folder)
        begun = datetime.now().astimezone().isoformat(timespec="seconds")
        return cls(config, folder, begun, end, "cuda" if gpu else "cpu", worker, lock)

    def steps(self) -> list[Step]:
        """Those that were asked for, in the order of the plan."""
        return [step for step in STEPS if self.config.steps is None or step.name in self.config.steps]

    def steps_in_turn(self) -> Iterator[tuple[Step, Outcome]]:
        """Each step with how it ended, which is a row too."""
        for step in self.steps():
            outcome = self._measure(step, min(step.seconds, self.end - time.monotonic()))
            Rows(self.folder, self.begun, step.name).append({KIND: OUTCOME} | asdict(outcome))
            yield step, outcome

    def _measure(self, step: Step, limit: float) -> Outcome:
        obstacle = step.obstacle(self.config.rehearse)
        if obstacle is not None:
            return Outcome("skipped", reason=obstacle)
        if limit < LEAST_SECONDS:
            return Outcome("not reached", reason="the budget was used up")
        call = StepCall(step.name, str(self.folder), self.begun, self.device, round(limit, 1), self.config.rehearse)
        return in_child((*self.worker, json.dumps(asdict(call))), self.log(step), limit, self._environment())

    def log(self, step: Step) -> Path:
        return self.folder / "logs" / f"{step.name}.txt"

    def _environment(self) -> Mapping[str, str]:
        """Steps find the package where this process found it. Without a GPU the kernels are interpreted."""
        on_cpu = {"TRITON_INTERPRET": "1"} if self.device == "cpu" else {}
        path = os.pathsep.join(filter(None, (str(CLONE), os.environ.get("PYTHONPATH"))))
        return os.environ | on_cpu | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": path}


def _locked(folder: Path) -> BinaryIO:
    """The file of rows, which this process keeps open: no other report may use the folder, and the GPU, meanwhile.

    Raises ConfigError if another report uses it, or if nothing can be written.
    """
    try:
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        file = (folder / NAME).open("ab")
    except OSError as error:
        expected = "a folder that can be written"
        raise ConfigError(f"output: expected {expected}, got {error.filename}: {error.strerror}") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(f"output: expected a folder that no other report writes to, got {folder}") from None
    except OSError:  # some network file systems have no locks; there, only their user can keep two reports apart
        pass
    return file


def gpu_name() -> str:
    """Name of the current GPU, empty if there is none. Asked in another process: a broken driver may crash or hang.

    Raises ConfigError if PyTorch does not answer.
    """
    command: Sequence[str] = (sys.executable, "-c", GPU_NAME)
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=QUESTION_SECONDS)
    except subprocess.TimeoutExpired:
        raise ConfigError(f"gpu_report: PyTorch did not name the GPU within {QUESTION_SECONDS} s") from None
    if asked.returncode != 0:
        lines = asked.stderr.strip().splitlines() or [f"exit code {asked.returncode}"]
        raise ConfigError(f"gpu_report: PyTorch cannot be asked for the GPU: {lines[-1]}")
    return asked.stdout.strip()


def folder_name(gpu: str) -> str:
    """`NVIDIA H100 80GB HBM3` -> `nvidia-h100-80gb-hbm3`."""
    words = "".join(letter if letter.isalnum() else " " for letter in gpu.lower()).split()
    return "-".join(words)
