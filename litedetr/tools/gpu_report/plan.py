"""The steps of the report, most valuable first: a budget cuts from the end."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from litedetr.tools.composition import Compose

Row = dict[str, Any]  # figures by name, for JSON; `kind` says of what
Tell = Callable[[Row], None]
REHEARSAL = "rehearsal"  # the folder of a rehearsal's rows; other folders are named by the GPU
WITH_HYDRA = ("hydra", "omegaconf", "pycocotools", "scipy", "PIL", "tqdm")  # what whole detectors need


@dataclass(frozen=True)
class Context:
    """What a step is told."""

    device: str  # of the tensors: cuda or cpu
    rehearse: bool  # tiny sizes: the code is tried, the figures mean nothing
    seconds: float  # until its process is ended
    folder: Path  # for files that it makes
    compose: Compose


@dataclass(frozen=True)
class StepCall:
    """What the process of a step is told by the report that starts it."""

    name: str  # of the step
    folder: str  # of the report
    report: str  # when it was begun
    device: str
    seconds: float  # until the process is ended
    rehearse: bool


@dataclass(frozen=True)
class Step:
    """One process of the report, and a section of the page."""

    name: str  # on the command line and in rows
    module: str  # of the package `steps`, whose `measure_step` tells its rows
    title: str  # on the page
    seconds: int  # the most that it may take
    packages: tuple[str, ...] = ()  # that it needs beside torch and Triton
    programs: tuple[str, ...] = ()  # one of which must be on the PATH

    def obstacle(self, rehearse: bool) -> str | None:
        """Why it cannot run here, or None. A rehearsal does without the programs."""
        missing = [name for name in self.packages if find_spec(name) is None]
        if missing:
            return f"needs the packages {', '.join(missing)}, which are not installed"
        if self.programs and not rehearse and not any(map(shutil.which, self.programs)):
            return f"needs {' or '.join(self.programs)} on the PATH"
        return None

    def measure(self, context: Context, tell: Tell) -> None:
        """Tells each figure as soon as it is known."""
        import_module(f"litedetr.tools.gpu_report.steps.{self.module}").measure_step(context, tell)


STEPS = (
    Step("machine", "machine", "The machine", 60),
    Step("suite", "kernel_tests", "The kernels' tests", 150, packages=("pytest", "numpy")),
    Step("attention", "attention", "Attentions beside their peers", 150),
    Step("memory_access", "memory_access", "Atomics and gathers by layout", 60),
    Step("host", "host", "Host time of a call", 40),
    Step("detectors", "detectors", "Whole detectors", 200, packages=WITH_HYDRA),
    Step("step", "training_step", "A training step", 90, packages=WITH_HYDRA),
    Step("training", "default_run", "The default run", 400, packages=(*WITH_HYDRA, "tensorboard", "matplotlib")),
    Step("tools", "nvidia_tools", "compute-sanitizer and ncu", 180, programs=("compute-sanitizer", "ncu")),
    Step("autotune", "autotune", "A short autotune", 100, packages=WITH_HYDRA),
)


def step_named(name: str) -> Step:
    return next(step for step in STEPS if step.name == name)
