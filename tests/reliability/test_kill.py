"""kill -9 at any moment, and `resume=auto`: the run ends as if nothing had happened."""

import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from fault_helpers import REPEATABLE, Script, assert_identical, assert_tidy, left_by, records

from litedetr.engine.checkpoint import load_checkpoint

SETTINGS = [*REPEATABLE, "run=foo", "resume=auto"]
STEPS_PER_EPOCH = 3
Moment = Callable[[Script, Path, random.Random], None]


def while_a_checkpoint_is_written(script: Script, folder: Path, rng: random.Random) -> None:
    """Any of the run's first ten."""
    seen, number = set(), rng.randrange(10)

    def reached() -> bool:
        if (folder / "last.pt").exists():
            seen.add((folder / "last.pt").stat().st_mtime_ns)
        return len(seen) >= number

    if script.wait_for(reached):
        script.wait_for((folder / ".last.pt.tmp").exists)


def while_it_evaluates(script: Script, folder: Path, rng: random.Random) -> None:
    """After a random epoch's last step."""
    step = STEPS_PER_EPOCH * rng.randint(1, 4)
    wanted = f'"train", "step": {step},'
    metrics = folder / "metrics.jsonl"
    script.wait_for(lambda: metrics.exists() and wanted in metrics.read_text())
    time.sleep(rng.uniform(0.02, 0.1))


def at_any_time(script: Script, folder: Path, rng: random.Random, seconds: float) -> None:
    """From the first moments, when there is no checkpoint yet, to the last."""
    deadline = time.monotonic() + rng.uniform(0, seconds)
    script.wait_for(lambda: time.monotonic() > deadline, pause=0.01)


def where_it_fell(folder: Path) -> str:
    """What the killed process was doing, from what it left."""
    if any(folder.glob(".*.pt.tmp")):
        return "in the write of a checkpoint"
    if not (folder / "last.pt").exists():
        return "before the first checkpoint"
    progress = load_checkpoint(folder / "last.pt").progress
    if (folder / "results.json").exists():
        return "after the end"
    evaluating = progress.step % STEPS_PER_EPOCH == 0 and progress.evaluated_step < progress.step
    after = [record for record in records(folder) if record["step"] > progress.step]
    return "in an evaluation" if evaluating and not after else "elsewhere"


class Trials:
    """Runs in `root` that are killed and resumed, and the uninterrupted one that they must equal."""

    def __init__(self, root: Path, cache: Path, fresh: bool) -> None:
        self.root, self.fresh = root, fresh
        self.settings = [*SETTINGS, f"data.shapes.cache={cache}"]
        begun = time.monotonic()
        self.whole = left_by(self.run("whole"))
        self.seconds = time.monotonic() - begun
        self.count = Counter()

    def start(self, name: str) -> Script:
        (self.root / name).mkdir(exist_ok=True)
        return Script(self.root / name, "train", *self.settings, fresh=self.fresh)

    def run(self, name: str) -> Path:
        """To the end; the run's folder."""
        script = self.start(name)
        assert script.end() == 0, script.stderr
        return self.root / name / "runs" / "foo"

    def trial(self, number: int, moment: Moment) -> None:
        name, rng = f"trial_{number}", random.Random(number)
        script, folder = self.start(name), self.root / name / "runs" / "foo"
        moment(script, folder, rng)
        script.kill(signal.SIGKILL)
        assert script.end() in (0, -signal.SIGKILL)
        self.count[where_it_fell(folder)] += 1
        self.run(name)
        assert_identical(left_by(folder), self.whole, name)
        assert_tidy(folder)
        shutil.rmtree(self.root / name)


def test_a_killed_run_ends_as_an_uninterrupted_one(tmp_path: Path, cache: Path):
    trials = Trials(tmp_path, cache, fresh=False)
    trials.trial(0, while_a_checkpoint_is_written)
    trials.trial(1, while_it_evaluates)


@pytest.mark.slow
def test_kills_at_many_moments(tmp_path: Path, cache: Path):
    """At least 24, of which some provably hit a write and some an evaluation; the trial's number is the seed."""
    trials = Trials(tmp_path, cache, fresh=True)
    moments = [while_a_checkpoint_is_written, while_it_evaluates, partial(at_any_time, seconds=trials.seconds)]
    number = 0
    while number < 24 or min(trials.count["in the write of a checkpoint"], trials.count["in an evaluation"]) < 4:
        trials.trial(number, moments[number % len(moments)])
        number += 1
        assert number < 100, trials.count
    print(f"\n{number} runs killed:", ", ".join(f"{count} {where}" for where, count in trials.count.items()))
