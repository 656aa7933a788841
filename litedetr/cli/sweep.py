"""All jobs of a sweep (-m), one after the other, each in a process of its own.

So a job inherits nothing that another one has set, left in memory or broken, and a job that fails does not stop the
others. Hydra itself would check all jobs first, run them in one process and end at the first that exits.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Override

from litedetr.engine.distributed import SWEEP_JOB
from litedetr.faults.messages import ERROR_FILE
from litedetr.faults.signals import Interrupted, StopRequest

HYDRAS_OWN = ("hydra/sweeper", "hydra/launcher", "hydra.sweeper")
PASSED_ON = ("config_path", "config_name", "config_dir")  # of Hydra's own options


class SweepError(ValueError):
    """Some jobs failed; the message lists them."""


@dataclass(frozen=True)
class Job:
    """One combination of a sweep's values."""

    number: int  # from 1
    overrides: tuple[str, ...]  # as Hydra takes them
    name: str  # the overrides in which it differs from other jobs


class _SignalsToJob(StopRequest):
    """While entered, signals to this process go to the job's."""

    process: subprocess.Popen | None = None

    def exit_code_of(self, command: Sequence[str], number: int, error_file: str) -> int:
        """-n after signal n."""
        # A session of its own: what a terminal sends to all its processes would reach the job twice.
        environment = os.environ | {ERROR_FILE: error_file, SWEEP_JOB: str(number)}
        self.process = subprocess.Popen(command, env=environment, start_new_session=True)
        if self.signum:
            self.process.send_signal(self.signum)
        return self.process.wait()

    def _note(self, signum: int, frame: FrameType | None) -> None:
        super()._note(signum, frame)
        if self.process is not None:
            self.process.send_signal(signum)


def asks_for_sweep(args: Namespace) -> bool:
    """Whether `args`, as Hydra's parser gives them, ask for a sweep that this file does: others are left to Hydra."""
    chosen = any(text.lstrip("+").startswith(HYDRAS_OWN) for text in args.overrides)
    shown = args.help or args.hydra_help or args.cfg or args.info or args.shell_completion or args.run
    return args.multirun and not chosen and not shown


def sweep(args: Namespace, overrides: Sequence[Override]) -> None:
    """Run all jobs. SweepError lists those that failed; Interrupted after a signal, which the running job had too."""
    jobs = jobs_of(overrides)
    options = [f"--{name.replace('_', '-')}={getattr(args, name)}" for name in PASSED_ON if getattr(args, name)]
    failed: list[str] = []
    with _SignalsToJob() as signals, tempfile.TemporaryDirectory() as folder:
        for job in jobs:
            if os.environ.get("RANK", "0") == "0":
                print(f"job {job.number} of {len(jobs)}: {job.name}", flush=True)
            command = [sys.executable, sys.argv[0], *options, *job.overrides, f"hydra.job.num={job.number - 1}"]
            error_file = os.path.join(folder, str(job.number))
            code = signals.exit_code_of(command, job.number, error_file)
            if signals.signum:
                raise Interrupted(signals.signum, f"the sweep ends with job {job.number} of {len(jobs)}")
            if code != 0:
                failed.append(f"\n  job {job.number} ({job.name}): {_reason(code, error_file)}")
    if failed:
        raise SweepError(f"{len(failed)} of {len(jobs)} jobs failed:{''.join(failed)}")


def jobs_of(overrides: Sequence[Override]) -> list[Job]:
    """Every combination, in Hydra's order."""
    (found,) = BasicSweeper.split_arguments(list(overrides), None)
    common = set.intersection(*map(set, found)) if len(found) > 1 else set()
    return [
        Job(number, tuple(job), shlex.join(text for text in job if text not in common))
        for number, job in enumerate(found, start=1)
    ]


def _reason(code: int, error_file: str) -> str:
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    if not os.path.exists(error_file):
        return f"exit code {code}"
    with open(error_file, encoding="utf-8") as file:
        return file.read()
