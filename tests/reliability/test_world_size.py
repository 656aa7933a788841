"""How many processes share the work changes nothing of what is trained."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from double_precision import train_in_double
from engine_helpers import metrics, run_config
from torchrun import torchrun

from litedetr.config import to_mapping
from litedetr.engine import Ranks, RunConfig, load_checkpoint

WORKER = Path(__file__).with_name("double_precision.py")


def config_of(cache: Path, stop_after: int | None = None, accumulate: int = 1) -> RunConfig:
    """6 steps of 4 images, with the denoising noise on; a single image to evaluate, so that a rank has none."""
    schedule = {"accumulate": accumulate}
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
    jobs = [(two, config_of(cache, accumulate=2)), (fewer, config_of(cache, stop_after=4)), (more, config_of(cache))]
    listed = tmp_path / "jobs.json"
    listed.write_text(json.dumps([[str(folder), to_mapping(config)] for folder, config in jobs]))
    outcome = torchrun(tmp_path, 2, WORKER, str(listed))
    assert outcome.code == 0, outcome.errors
    train_in_double(config_of(cache), fewer, one_rank)
    for folder in (two, fewer, more):
        assert_same_weights(folder, one)
        assert [record["step"] for record in metrics(folder, "train")] == [1, 2, 3, 4, 5, 6]
        assert metrics(folder, "evaluation") == metrics(one, "evaluation")
