"""How many processes share the work changes nothing of what is trained."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from double_precision import train_in_double
from engine_helpers import metrics, run_config
from test_scripts import TINY, run
from torchrun import ROOT, torchrun

from litedetr.engine.checkpoint import load_checkpoint
from litedetr.engine.distributed import Ranks
from litedetr.engine.run_config import RunConfig
from litedetr.settings import to_mapping

WORKER = Path(__file__).with_name("double_precision.py")


def config_of(cache: Path, stop_after: int | None = None, grad_accum_steps: int = 1) -> RunConfig:
    """6 steps of 4 images, with the denoising noise on; a single image to evaluate, so that a rank has none."""
    schedule = {"grad_accum_steps": grad_accum_steps}
    config = run_config(cache, schedule=schedule, trainer={"stop_after": stop_after, "evaluate_every": None})
    return replace(config, data=replace(config.data, shapes=replace(config.data.shapes, num_val=1)))


def assert_same_weights(folder: Path, expected: Path) -> None:
    mine, theirs = (load_checkpoint(path / "last.pt") for path in (folder, expected))
    assert mine.progress == theirs.progress
    for name, value in theirs.model.items():
        assert value.dtype == torch.float64
        torch.testing.assert_close(mine.model[name], value, rtol=0, atol=1e-10, msg=lambda text, n=name: f"{n}: {text}")


def test_two_processes_train_the_weights_of_one(cache: Path, tmp_path: Path, one_rank: Ranks):
    """Without a stop, from two processes to one in the middle, and from one to two; noise and accumulation included.

    Sums in another order differ by rounding alone, which leaves 5e-15 of the weights here.
    """
    one, two, fewer, more = (tmp_path / name for name in ("one", "two", "fewer", "more"))
    train_in_double(config_of(cache), one, one_rank)
    train_in_double(config_of(cache, stop_after=2), more, one_rank)
    jobs = [
        (two, config_of(cache, grad_accum_steps=2)),
        (fewer, config_of(cache, stop_after=4)),
        (more, config_of(cache)),
    ]
    listed = tmp_path / "jobs.json"
    listed.write_text(json.dumps([[str(folder), to_mapping(config)] for folder, config in jobs]))
    outcome = torchrun(tmp_path, 2, WORKER, str(listed))
    assert outcome.code == 0, outcome.errors
    train_in_double(config_of(cache), fewer, one_rank)
    for folder in (two, fewer, more):
        assert_same_weights(folder, one)
        assert [record["step"] for record in metrics(folder, "train")] == [1, 2, 3, 4, 5, 6]
        assert metrics(folder, "evaluation") == metrics(one, "evaluation")


@pytest.mark.slow
def test_the_scripts_train_the_same_in_single_precision_up_to_rounding(cache: Path, tmp_path: Path):
    """scripts/train.py, 30 steps. AdamW divides a gradient by its size, so that one which is rounding alone still
    moves its weight by up to the rate: the weights as a whole are compared with how far they moved.
    """
    settings = [*TINY, f"data.shapes.cache={cache}", "schedule.max_epochs=10", "schedule.ema_decay=null"]
    alone = run(tmp_path, "train", *settings, "run=one")
    assert alone.returncode == 0, alone.stderr
    begun = run(tmp_path, "train", *settings, "run=begun", "trainer.stop_after=1", "schedule.lr=1e-12")
    assert begun.returncode == 0, begun.stderr
    together = torchrun(tmp_path, 2, ROOT / "scripts" / "train.py", *settings, "run=two")
    assert together.code == 0, together.errors
    start, one, two = (
        torch.cat([value.flatten() for value in load_checkpoint(tmp_path / "runs" / name / "last.pt").model.values()])
        for name in ("begun", "one", "two")
    )
    difference = (two - one).norm() / (one - start).norm()
    losses = [[record["loss"] for record in metrics(tmp_path / "runs" / name, "train")] for name in ("one", "two")]
    print(f"weights differ by {difference:.1e} of their way, losses by {abs(losses[1][-1] / losses[0][-1] - 1):.1e}")
    assert difference < 1e-3
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
