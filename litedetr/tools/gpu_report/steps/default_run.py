"""The README's first command: the default run, trained on this GPU to its AP."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

from litedetr.paths import CLONE
from litedetr.tools.gpu_report.plan import Context, Row, Tell

TRAIN = CLONE / "scripts" / "train.py"
DEFAULT_RUN = ("encoder=h3l1", "a=6", "b=1")
FEW_IMAGES = ("data.shapes.num_train=8", "data.shapes.num_val=2", "data.shapes.min_side=32", "data.shapes.max_side=32")
REHEARSED = (
    *FEW_IMAGES,
    "schedule.batch_size=4",
    "schedule.max_epochs=1",
    "trainer.num_pictures=0",
    "trainer.log_every=1",
)
POLL_SECONDS = 1.0
SCORES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
SPEED = ("loss", "images_per_second", "data_share")


def measure_step(context: Context, tell: Tell) -> None:
    """A row for each evaluation as it comes, so that a run that is cut short shows how far it came."""
    name = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    overrides = [*DEFAULT_RUN, *(REHEARSED if context.rehearse else ()), f"run={name}"]
    metrics = Metrics(context.folder / "runs" / name / "metrics.jsonl")
    start = time.monotonic()
    training = subprocess.Popen([sys.executable, str(TRAIN), *overrides], cwd=context.folder)
    is_running = True
    while is_running:
        is_running = training.poll() is None  # first: what is written after it is read once more
        for record in metrics.new_evaluations():
            tell({"kind": "evaluations", "seconds": time.monotonic() - start} | record)
        time.sleep(POLL_SECONDS if is_running else 0)
    if training.returncode:
        raise RuntimeError(f"scripts/train.py ended with exit code {training.returncode}")
    seconds = time.monotonic() - start
    tell({"kind": "default run", "command": f"scripts/train.py {' '.join(overrides)}", "seconds": seconds})


class Metrics:
    """The lines of a metrics.jsonl that grows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = 0
        self.speed: Row = {}

    def new_evaluations(self) -> list[Row]:
        """Those since the last call, each with what the last training step before it tells of speed."""
        found = []
        for record in self._new():
            if record["kind"] == "train":
                self.speed = {name: record[name] for name in SPEED}
            else:
                scores = {name: record[name] for name in SCORES}
                found.append({"epoch": record["epoch"], "optimiser_step": record["step"]} | scores | self.speed)
        return found

    def _new(self) -> list[Row]:
        """Whole lines only."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(self.position)
            whole = file.read().rpartition(b"\n")[0]
        self.position += len(whole) + 1 if whole else 0
        return [json.loads(line) for line in whole.splitlines()]
