"""What a user of torchrun sees, and how soon, when something goes wrong: one reason, once, and a whole checkpoint."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from engine_helpers import run_config
from test_scripts import TINY
from torchrun import ROOT, Outcome, process_of, torchrun, torchrun_on_machines, wait_for

from litedetr.data import EpochSampler
from litedetr.data.shapes_dataset import shapes_root
from litedetr.engine.checkpoint import load_checkpoint

TRAIN = ROOT / "scripts" / "train.py"
LONG = ["run=foo", "trainer.checkpoint_every=2", "schedule.max_epochs=1000"]
LOST = "error: another process of this run ended or cannot be reached"


@pytest.fixture
def tiny(cache: Path) -> list[str]:
    return [*TINY, f"data.shapes.cache={cache}"]


def once_saved(folder: Path, do: Callable[[int], None]) -> Callable[[int], None]:
    """`do` to torchrun once the run has a checkpoint."""

    def disturb(agent: int) -> None:
        wait_for(folder / "runs" / "foo" / "last.pt")
        do(agent)

    return disturb


def assert_ended(outcome: Outcome, reason: str, times: int = 1, within: float = 60) -> None:
    """With a nonzero status, and the reason in the output; no traceback but torchrun's own."""
    print(f"{outcome.seconds:.1f} s: {reason}")
    assert outcome.code != 0
    assert outcome.count(reason) == times, outcome.errors
    assert outcome.count("Traceback") == 1, outcome.errors
    assert outcome.seconds < within


def assert_checkpoint_whole(folder: Path) -> None:
    assert load_checkpoint(folder / "runs" / "foo" / "last.pt").progress.step >= 2


def test_a_killed_rank_ends_the_run(tmp_path: Path):
    """Of two that have just drawn the embedded data set at the same time."""
    kill = once_saved(tmp_path, lambda agent: os.kill(process_of(agent, rank=1), signal.SIGKILL))
    outcome = torchrun(tmp_path, 2, TRAIN, *TINY, *LONG, "data.shapes.cache=drawn", disturb=kill)
    assert len(list((tmp_path / "drawn").iterdir())) == 1
    assert outcome.count(LOST) <= 1  # none where torchrun ends the other one before it needs the lost one
    assert_ended(outcome, "Signal 9 (SIGKILL) received by PID", within=20)
    assert_checkpoint_whole(tmp_path)


@pytest.mark.slow
def test_the_main_rank_may_be_killed_too(tmp_path: Path, tiny: list[str]):
    kill = once_saved(tmp_path, lambda agent: os.kill(process_of(agent, rank=0), signal.SIGKILL))
    outcome = torchrun(tmp_path, 3, TRAIN, *tiny, *LONG, "schedule.batch_size=3", disturb=kill)
    assert outcome.count(LOST) == 0
    assert_ended(outcome, "Signal 9 (SIGKILL) received by PID", within=20)
    assert_checkpoint_whole(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (["schedule.lrr=1"], "Could not override 'schedule.lrr'"),
        (["schedule.lr=fast"], "error: schedule.lr: expected a number, got 'fast'"),
        (["schedule.batch_size=5"], "error: schedule.batch_size: expected a multiple of processes (2)"),
        (["resume=runs/none"], "error: resume=runs/none: no such checkpoint"),
        (["schedule.lr=1e6", "schedule.clip_norm=null"], "error: the loss is nan"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_mistake_of_all_ranks_is_told_once(tmp_path: Path, tiny: list[str], settings: list[str], reason: str):
    assert_ended(torchrun(tmp_path, 2, TRAIN, *tiny, *settings), reason)


def coco(settings: list[str], root: Path | str) -> list[str]:
    return [*(text for text in settings if not text.startswith("data.shapes")), "data=coco", f"data.root={root}"]


@pytest.mark.slow
def test_missing_data_are_told_once(tmp_path: Path):
    assert_ended(torchrun(tmp_path, 2, TRAIN, *coco(TINY, "nowhere")), "error: data.root")


@pytest.mark.slow
def test_a_rank_that_alone_fails_at_its_start_says_why(tmp_path: Path, cache: Path):
    """The others wait for it and are told to leave."""
    settings = coco(TINY, shapes_root(run_config(cache).data.shapes))
    script = Path(__file__).with_name("one_rank_fails.py")
    outcome = torchrun(tmp_path, 2, script, "data.root=nowhere", *settings)
    assert_ended(outcome, "error: data.root: ")
    assert "nowhere" in outcome.errors


@pytest.mark.slow
def test_a_rank_that_alone_fails_while_it_trains_says_why(tmp_path: Path, cache: Path):
    """An image that is cut short, which rank 1 reads in the third step."""
    root = Path(shutil.copytree(shapes_root(run_config(cache).data.shapes), tmp_path / "data"))
    keys = list(EpochSampler(num_items=12, batch_size=2, rank=1, world_size=2))
    image = root / "train" / f"{keys[2][0].index + 1:06d}.jpg"
    image.write_bytes(image.read_bytes()[:200])
    settings = [*coco(TINY, root), *LONG]
    outcome = torchrun(tmp_path, 2, TRAIN, *settings)
    assert_ended(outcome, f"{image}: cannot be read as an image")
    assert outcome.count(LOST) <= 1
    assert_checkpoint_whole(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_torchrun_saves_and_leaves(tmp_path: Path, tiny: list[str], signum: signal.Signals):
    outcome = torchrun(
        tmp_path, 2, TRAIN, *tiny, *LONG, disturb=once_saved(tmp_path, lambda agent: os.kill(agent, signum))
    )
    assert_ended(outcome, f"{signum.name}: left after step", within=20)
    assert_checkpoint_whole(tmp_path)


@pytest.mark.slow
def test_machines_that_share_no_folder_train_and_are_stopped_before_they_begin_anew(tmp_path: Path, tiny: list[str]):
    """Which of them has the main rank is decided at each start."""
    machines = [tmp_path / name for name in ("first", "second")]
    for machine in machines:
        machine.mkdir()
    settings = [*tiny, "run=foo", "schedule.max_epochs=2"]
    for outcome in torchrun_on_machines(machines, TRAIN, *settings, "trainer.stop_after=4"):
        assert outcome.code == 0, outcome.errors
    (written,) = (machine / "runs" / "foo" / "last.pt" for machine in machines if (machine / "runs").exists())
    for outcome in torchrun_on_machines(machines, TRAIN, *settings, "resume=auto"):
        assert_ended(outcome, "error: runs: expected a folder that all machines share")
    assert load_checkpoint(written).progress.step == 4


@pytest.mark.slow
def test_every_job_of_a_sweep_runs(tmp_path: Path, tiny: list[str]):
    """The second finds its own processes, not the first one's, whose addresses torchrun still keeps."""
    once = ["schedule.max_epochs=null", "schedule.max_steps=1"]
    ended = torchrun(tmp_path, 2, TRAIN, "-m", *tiny, *once, "seed=0,1", "run=foo_${seed}")
    assert ended.code == 0, ended.errors
    for name in ("foo_0", "foo_1"):
        assert load_checkpoint(tmp_path / "runs" / name / "last.pt").progress.step == 1
