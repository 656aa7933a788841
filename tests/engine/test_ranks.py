"""Two processes on one machine do what one does."""

import os
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_helpers import metrics, run_config
from torch import multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from litedetr.engine.build_trainer import build_trainer
from litedetr.engine.checkpoint import load_checkpoint
from litedetr.engine.distributed import Ranks, join_ranks
from litedetr.engine.optim import WeightUpdate
from litedetr.engine.run_config import RunConfig
from litedetr.engine.run_folder import RunFolder
from litedetr.engine.schedule_config import ScheduleConfig
from litedetr.faults.processes import LostRanksError, lost_ranks_named
from litedetr.models.detector_config import HybridConfig
from litedetr.settings import ConfigError, from_mapping, to_mapping


def evaluate_and_train(config: RunConfig, folder: Path, ranks: Ranks) -> None:
    """Keep what the initial weights detect, then train."""
    trainer = build_trainer(config, RunFolder(folder, None, "test"), ranks)
    evaluation = trainer.evaluator(trainer.state.evaluated_model)
    assert (evaluation is not None) == ranks.is_main
    if evaluation is not None:
        np.save(folder / "detections.npy", evaluation.detections)
    trainer.run()


def join_and_train(rank: int, port: int, config: dict, folder: Path) -> None:
    """One of two processes, with what torchrun tells it."""
    torch.set_num_threads(1)
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": 2, "RANK": rank, "LOCAL_RANK": rank}
    os.environ |= {name: str(value) for name, value in told.items()}
    with join_ranks("cpu") as ranks:
        evaluate_and_train(from_mapping(RunConfig, config), folder, ranks)


def join_and_step(rank: int, port: int, folder: Path) -> None:
    """One of two processes, which keeps its weights after two steps of Muon with its own half of the images."""
    torch.set_num_threads(1)
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": 2, "RANK": rank, "LOCAL_RANK": rank}
    os.environ |= {name: str(value) for name, value in told.items()}
    config = ScheduleConfig(optimizer="muon", clip_norm=None)
    with join_ranks("cpu"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(24, 40), nn.Tanh(), nn.Linear(40, 128), nn.Tanh(), nn.Linear(128, 300))
        update, parallel = WeightUpdate.build(model, config, "fp32"), DistributedDataParallel(model)
        for _ in range(2):
            update.zero_grad()
            update.backward(parallel(torch.randn(8, 2, 24)[:, rank]).square().mean())
            update.apply()
        torch.save(model.state_dict(), folder / f"{rank}.pt")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def runs(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One process, and two that accumulate two micro-batches each: 4 images a step, 5 to evaluate."""
    config = run_config(cache, schedule={"max_epochs": 1, "milestones": ()})
    config = replace(config, model=replace(config.model, hybrid=HybridConfig(num_queries=6, num_repeats=2)))
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    evaluate_and_train(config, one, Ranks(torch.device("cpu")))
    accumulating = replace(config, schedule=replace(config.schedule, grad_accum_steps=2))
    multiprocessing.spawn(join_and_train, (free_port(), to_mapping(accumulating), two), nprocs=2)
    return one, two


def test_two_ranks_take_the_steps_of_one(runs: tuple[Path, Path]):
    """fp32 sums in another order; AdamW's first steps make small differences of tiny gradients larger."""
    one, two = (metrics(folder, "train") for folder in runs)
    assert [record["step"] for record in two] == [1, 2, 3]
    for mine, theirs, tolerance in zip(two, one, (1e-5, 1e-2, 1e-2), strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=tolerance)
        assert mine["loss_parts"].keys() == {"decoder", "proposals", "one_to_many", "denoising"}
        for branch, terms in mine["loss_parts"].items():
            for term, values in terms.items():
                assert values == pytest.approx(theirs["loss_parts"][branch][term], rel=tolerance), (branch, term)
    assert two[0]["grad_norm"] == pytest.approx(one[0]["grad_norm"], rel=1e-4)


def test_ranks_have_the_same_weights_after_steps_of_muon(tmp_path: Path):
    """To the last bit: they have the same gradients, and nobody sends weights."""
    multiprocessing.spawn(join_and_step, (free_port(), tmp_path), nprocs=2)
    mine, theirs = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert all(torch.equal(mine[name], value) for name, value in theirs.items())
    torch.manual_seed(0)
    assert not torch.equal(mine["0.weight"], nn.Linear(24, 40).weight)


def test_every_image_is_evaluated_once_by_two_ranks(runs: tuple[Path, Path]):
    one, two = (np.load(folder / "detections.npy") for folder in runs)
    assert sorted(two["image_id"]) == sorted(one["image_id"])
    assert len(set(two["image_id"])) == 5
    ordered = [found[np.argsort(found["image_id"], kind="stable")] for found in (one, two)]
    np.testing.assert_allclose(ordered[1]["score"], ordered[0]["score"], rtol=1e-4)


def test_only_one_rank_writes(runs: tuple[Path, Path]):
    _, two = runs
    assert len(list((two / "tensorboard").iterdir())) == 1
    assert load_checkpoint(two / "last.pt").progress.step == 3
    assert len(metrics(two, "evaluation")) == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "[/src/gloo/transport/tcp/pair.cc:5] Connection closed by peer [::1]:7. Long advice",
            "closed by peer [::1]:7)",
        ),
        ("[/src/gloo/transport/tcp/unbound_buffer.cc:8] Timed out waiting 1800000ms", "waiting 1800000ms)"),
    ],
)
def test_a_lost_rank_is_named(text: str, told: str):
    with (
        pytest.raises(LostRanksError, match=r"^another process of this run ended .*resume=auto$") as error,
        lost_ranks_named(),
    ):
        raise RuntimeError(text)
    assert told in str(error.value)


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="out of memory") as error, lost_ranks_named():
        raise RuntimeError("[enforce fail] out of memory")
    assert type(error.value) is RuntimeError


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name, value in {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"--nproc-per-node: expected at most the number of GPUs \(1\), got '2'"):
        join_ranks("auto").__enter__()
