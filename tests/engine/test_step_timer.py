"""How long steps wait for their images."""

import time
from pathlib import Path

import pytest
from engine_helpers import metrics, run_config

from litedetr.data import CocoDetection
from litedetr.engine import step_timer
from litedetr.engine.build_trainer import build_trainer
from litedetr.engine.distributed import Ranks
from litedetr.engine.run_folder import RunFolder
from litedetr.engine.step_timer import ENOUGH, StepTimer, StepTimes

NOTE = "of the time is spent waiting for images: raise data.num_workers (now 0)"


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(step_timer.time, "perf_counter", lambda: self.now)

    def step(self, of: StepTimer, waits: float, computes: float) -> None:
        with of.waiting():
            self.now += waits
        self.now += computes


def test_times_are_those_since_the_last_ones(monkeypatch: pytest.MonkeyPatch):
    clock = Clock(monkeypatch)
    timed = StepTimer()
    for _ in range(4):
        clock.step(timed, 1, 3)
    found = timed.take()
    assert (found, found.data_share) == (StepTimes(4, 16.0, 4.0), 0.25)
    clock.now += 100  # an evaluation
    timed.restart()
    clock.step(timed, 0, 2)
    assert timed.take() == StepTimes(1, 2.0, 0.0)
    assert StepTimes().data_share == 0


def test_it_is_said_once_and_not_of_the_first_times(monkeypatch: pytest.MonkeyPatch):
    clock = Clock(monkeypatch)
    timed = StepTimer()
    for waits, computes, said in ((50, 1, False), (0.2, 1, False), (1, 1, True), (1, 1, False)):
        for _ in range(ENOUGH):
            clock.step(timed, waits, computes)
        timed.take()
        note = timed.note(0)
        assert (note is not None) == said
    timed = StepTimer()
    for _ in range(ENOUGH - 1):
        clock.step(timed, 1, 0)
        timed.take()
    assert timed.note(0) is None  # too few to tell


def trained(cache: Path, folder: Path, ranks: Ranks) -> list[float]:
    """The shares of a run of 24 steps, its first apart."""
    config = run_config(cache, schedule={"max_epochs": 8, "milestones": ()}, trainer={"evaluate_every": None})
    build_trainer(config, RunFolder(folder, None, "test"), ranks).run()
    return [record["data_share"] for record in metrics(folder, "train")][1:]


def test_a_slow_data_set_shows_a_large_share_and_a_note(
    cache: Path, tmp_path: Path, one_rank: Ranks, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    fast = trained(cache, tmp_path / "fast", one_rank)
    shown = capsys.readouterr()
    assert sum(fast) / len(fast) < 0.2
    assert NOTE not in shown.out + shown.err
    item = CocoDetection.__getitem__
    monkeypatch.setattr(CocoDetection, "__getitem__", lambda self, key: time.sleep(0.1) or item(self, key))
    slow = trained(cache, tmp_path / "slow", one_rank)
    shown = capsys.readouterr()
    assert min(slow) > 0.3
    assert (shown.out + shown.err).count(NOTE) == 1
    assert "waiting=" in shown.err
