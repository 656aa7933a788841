"""Whole runs of a tiny detector."""

import json
import math
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_helpers import metrics, run_config, train

from litedetr.engine.build_trainer import build_trainer
from litedetr.engine.checkpoint import CheckpointError, Progress, load_checkpoint
from litedetr.engine.distributed import Ranks
from litedetr.engine.evaluation_loop import Evaluation, Evaluator
from litedetr.engine.resume import find_unfinished
from litedetr.engine.run_folder import RunFolder
from litedetr.engine.step_result import NonFiniteError, StepResult
from litedetr.engine.tracker import drop_metrics_after
from litedetr.engine.train_step import TrainStep
from litedetr.faults.signals import Interrupted
from litedetr.settings import ConfigError

TIMES = ("images_per_second", "data_share")


def numbers(folder: Path) -> list[dict]:
    """All that was recorded, but for how fast it went."""
    records = metrics(folder, "train") + metrics(folder, "evaluation")
    return [{name: value for name, value in record.items() if name not in TIMES} for record in records]


@pytest.fixture(scope="module")
def whole_run(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    train(run_config(cache), folder, Ranks(torch.device("cpu")))
    return folder


def assert_same_end(folder: Path, whole_run: Path) -> None:
    assert numbers(folder) == numbers(whole_run)
    mine, theirs = load_checkpoint(folder / "last.pt"), load_checkpoint(whole_run / "last.pt")
    assert mine.progress == theirs.progress
    for kind in ("model", "ema"):
        for name, value in getattr(theirs, kind).items():
            assert torch.equal(getattr(mine, kind)[name], value), f"{kind} {name}"


def test_a_run_leaves_what_it_promises(whole_run: Path):
    assert [record["step"] for record in metrics(whole_run, "train")] == [1, 2, 3, 4, 5, 6]
    assert [record["step"] for record in metrics(whole_run, "evaluation")] == [3, 6]
    assert [record["lr"] for record in metrics(whole_run, "train")] == pytest.approx([1e-3] * 3 + [1e-4] * 3)
    results = json.loads((whole_run / "results.json").read_text())
    assert results["step"] == 6
    assert set(results["classes"]) == {"circle", "ring", "square", "triangle", "star"}
    assert len(list((whole_run / "pictures").glob("*.png"))) == 1
    assert list((whole_run / "tensorboard").iterdir())
    best = load_checkpoint(whole_run / "best.pt").progress
    assert best.best_score == max(record["AP"] for record in metrics(whole_run, "evaluation"))
    last = load_checkpoint(whole_run / "last.pt")
    assert any(not torch.equal(last.ema[name], value) for name, value in last.model.items())


@pytest.mark.parametrize("stop_after", [2, 3, 4])
def test_a_resumed_run_is_the_uninterrupted_one(
    whole_run: Path, cache: Path, tmp_path: Path, one_rank: Ranks, stop_after: int
):
    """To the last bit, from the middle of an epoch and from its end."""
    train(run_config(cache, trainer={"stop_after": stop_after}), tmp_path, one_rank)
    assert not (tmp_path / "results.json").exists()
    assert metrics(tmp_path, "train")[-1]["step"] == stop_after
    torch.rand(11)  # another process starts from another state
    train(run_config(cache), tmp_path, one_rank)
    assert_same_end(tmp_path, whole_run)


def test_steps_after_the_last_checkpoint_are_done_again_and_listed_once(
    whole_run: Path, cache: Path, tmp_path: Path, one_rank: Ranks, monkeypatch: pytest.MonkeyPatch
):
    """As after SIGKILL at step 5, where the checkpoint is of step 4 and a line of the metrics is cut short."""
    config = run_config(cache, trainer={"checkpoint_every": 4})
    trainer = build_trainer(config, RunFolder(tmp_path, None, "test"), one_rank)
    update = TrainStep.__call__

    def killed(step: TrainStep, number: int, batches: list) -> StepResult:
        if number == 5:
            raise KeyboardInterrupt
        return update(step, number, batches)

    monkeypatch.setattr(TrainStep, "__call__", killed)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert load_checkpoint(tmp_path / "last.pt").progress.step == 4
    assert metrics(tmp_path, "train")[-1]["step"] == 5
    monkeypatch.undo()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "tra')
    train(config, tmp_path, one_rank)
    assert_same_end(tmp_path, whole_run)


def test_a_run_killed_while_it_evaluates_evaluates_again(
    whole_run: Path, cache: Path, tmp_path: Path, one_rank: Ranks, monkeypatch: pytest.MonkeyPatch
):
    trainer = build_trainer(run_config(cache), RunFolder(tmp_path, None, "test"), one_rank)
    monkeypatch.setattr(Evaluator, "__call__", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer.run()
    monkeypatch.undo()
    assert metrics(tmp_path, "evaluation") == []
    train(run_config(cache), tmp_path, one_rank)
    assert_same_end(tmp_path, whole_run)


@pytest.mark.parametrize("ema_decay", [0.9, None])
def test_the_averaged_weights_are_evaluated_where_there_are_any(
    cache: Path, tmp_path: Path, one_rank: Ranks, monkeypatch: pytest.MonkeyPatch, ema_decay: float | None
):
    config = run_config(cache, schedule={"ema_decay": ema_decay})
    trainer = build_trainer(config, RunFolder(tmp_path, None, "test"), one_rank)
    evaluated = []
    monkeypatch.setattr(Evaluator, "__call__", lambda evaluator, model, **_: evaluated.append(model))
    trainer.run()
    expected = trainer.state.model if ema_decay is None else trainer.state.average.model
    assert evaluated == [expected] * 2


def test_a_finished_run_is_only_evaluated_once_more(whole_run: Path, cache: Path, tmp_path: Path, one_rank: Ranks):
    train(run_config(cache), tmp_path, one_rank)
    written = (tmp_path / "best.pt").stat().st_mtime_ns
    again = train(run_config(cache), tmp_path, one_rank)
    assert again.scores is not None
    assert (tmp_path / "best.pt").stat().st_mtime_ns == written
    assert_same_end(tmp_path, whole_run)


def test_a_schedule_that_has_become_shorter_evaluates_what_is_there(
    whole_run: Path, cache: Path, tmp_path: Path, one_rank: Ranks, capsys: pytest.CaptureFixture[str]
):
    """Its results are written anew, those of before stay until then."""
    folder = shutil.copytree(whole_run, tmp_path / "run")
    before = json.loads((folder / "results.json").read_text())
    shorter = run_config(cache, schedule={"max_epochs": None, "max_steps": 2})
    trainer = build_trainer(shorter, RunFolder(folder, folder / "last.pt", "test"), one_rank)
    assert json.loads((folder / "results.json").read_text()) == before
    assert (
        "at step 6, beyond the 2 steps of this schedule: nothing is left to train, the weights are evaluated once more"
        in capsys.readouterr().out
    )
    (folder / "results.json").unlink()
    assert trainer.run() is not None
    assert json.loads((folder / "results.json").read_text()) == before
    assert numbers(folder) == numbers(whole_run)


def test_a_run_that_fails_before_its_first_step_leaves_all_as_it_was(
    whole_run: Path, cache: Path, tmp_path: Path, one_rank: Ranks, monkeypatch: pytest.MonkeyPatch
):
    folder = shutil.copytree(whole_run, tmp_path / "run")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for schedule in ({"max_epochs": 4}, {"max_epochs": 2}, {"max_epochs": None, "max_steps": 1, "milestones": ()}):
        config = run_config(cache, schedule=schedule)
        trainer = build_trainer(config, RunFolder(folder, folder / "last.pt", "test"), one_rank)
        monkeypatch.setattr(TrainStep, "__call__", lambda *arguments: 1 / 0)
        monkeypatch.setattr(Evaluator, "__call__", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            trainer.run()
        assert {path: path.read_bytes() for path in before} == before


def test_a_finished_run_that_goes_on_is_unfinished(whole_run: Path, cache: Path, tmp_path: Path, one_rank: Ranks):
    """Its old results are still there."""
    folder = shutil.copytree(whole_run, tmp_path / "runs" / "foo")
    longer = run_config(cache, schedule={"max_epochs": 4}, trainer={"resume": "auto", "stop_after": 8})
    assert find_unfinished(folder.parent, run_config(cache))[0] is None
    assert find_unfinished(folder.parent, longer)[0] is None
    train(longer, folder, one_rank)
    assert json.loads((folder / "results.json").read_text())["step"] == 6
    assert find_unfinished(folder.parent, longer)[0] == folder / "last.pt"
    train(replace(longer, trainer=replace(longer.trainer, stop_after=None)), folder, one_rank)
    assert json.loads((folder / "results.json").read_text())["step"] == 12
    assert find_unfinished(folder.parent, longer)[0] is None


def test_the_bar_shows_the_last_evaluation(
    cache: Path, tmp_path: Path, one_rank: Ranks, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    config = run_config(cache, trainer={"num_pictures": 0})
    trainer = build_trainer(config, RunFolder(tmp_path, None, "test"), one_rank)
    evaluate, scores = Evaluator.__call__, iter((0.25, 0.75))

    def scored(*arguments: object, **options: object) -> Evaluation:
        found = evaluate(*arguments, **options)
        return replace(found, scores=replace(found.scores, summary=found.scores.summary | {"AP": next(scores)}))

    monkeypatch.setattr(Evaluator, "__call__", scored)
    trainer.run()
    last = capsys.readouterr().err.replace("\r", "\n").strip().splitlines()[-1]
    assert "6/6" in last
    assert "AP=0.750" in last


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_its_step_with_the_state_saved(
    cache: Path, tmp_path: Path, one_rank: Ranks, monkeypatch: pytest.MonkeyPatch, signum: int
):
    trainer = build_trainer(run_config(cache), RunFolder(tmp_path, None, "test"), one_rank)
    handler = signal.getsignal(signum)
    forward = trainer.state.model.forward
    calls = []

    def interrupted(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signum)
        return forward(*arguments)

    monkeypatch.setattr(trainer.state.model, "forward", interrupted)
    with pytest.raises(Interrupted) as stop:
        trainer.run()
    assert stop.value.signum == signum
    assert load_checkpoint(tmp_path / "last.pt").progress.step == 2
    assert signal.getsignal(signum) == handler


def test_a_run_that_diverges_keeps_its_last_checkpoint(
    cache: Path, tmp_path: Path, one_rank: Ranks, monkeypatch: pytest.MonkeyPatch
):
    config = run_config(cache, trainer={"checkpoint_every": 1})
    trainer = build_trainer(config, RunFolder(tmp_path, None, "test"), one_rank)
    update = TrainStep.__call__

    def poisoned(step: TrainStep, number: int, batches: list) -> StepResult:
        if number == 2:
            torch.nn.init.constant_(next(trainer.state.model.parameters()), math.nan)
        return update(step, number, batches)

    monkeypatch.setattr(TrainStep, "__call__", poisoned)
    with pytest.raises(NonFiniteError, match="at step 2"):
        trainer.run()
    kept = load_checkpoint(tmp_path / "last.pt")
    assert kept.progress.step == 2
    assert all(value.isfinite().all() for value in kept.model.values())


def test_accumulation_trains_on_the_same_images(cache: Path, tmp_path: Path, one_rank: Ranks):
    def losses(name: str, grad_accum_steps: int) -> list[float]:
        config = run_config(cache, schedule={"grad_accum_steps": grad_accum_steps}, trainer={"stop_after": 2})
        train(config, tmp_path / name, one_rank)
        return [record["loss"] for record in metrics(tmp_path / name, "train")]

    assert losses("four", 4) == pytest.approx(losses("one", 1), rel=1e-3)


def test_what_cannot_be_continued_says_why(whole_run: Path, cache: Path, one_rank: Ranks):
    smaller_batches = run_config(cache, schedule={"batch_size": 2})
    with pytest.raises(CheckpointError, match=r"an epoch had 3 steps and has 6 now: schedule\.batch_size"):
        train(smaller_batches, whole_run, one_rank)
    config = run_config(cache)
    fewer = replace(config, data=replace(config.data, classes=("circle", "star")))
    with pytest.raises(CheckpointError, match=r"trained on other classes: .*init_from"):
        train(fewer, whole_run, one_rank)


def test_fine_tuning_starts_from_the_weights_of_another_run(
    whole_run: Path, cache: Path, tmp_path: Path, one_rank: Ranks
):
    config = run_config(cache, trainer={"init_from": str(whole_run / "last.pt")})
    trainer = build_trainer(config, RunFolder(tmp_path, None, "test"), one_rank)
    expected = load_checkpoint(whole_run / "last.pt").ema
    for model in (trainer.state.model, trainer.state.average.model):
        assert all(torch.equal(model.state_dict()[name], value) for name, value in expected.items())
    assert trainer.state.progress == Progress()


def test_stages_that_would_stay_random_are_refused(whole_run: Path, cache: Path, tmp_path: Path, one_rank: Ranks):
    config = run_config(cache)
    frozen = replace(config, model=replace(config.model, backbone=replace(config.model.backbone, frozen_stages=2)))
    with pytest.raises(ConfigError, match=r"trainer.init_from: .*backbone\.weights.*\(backbone\.frozen_stages=2\)"):
        build_trainer(frozen, RunFolder(tmp_path / "new", None, "test"), one_rank)
    assert not (tmp_path / "new").exists()
    begun = replace(frozen, trainer=replace(config.trainer, init_from=str(whole_run / "last.pt")))
    assert build_trainer(begun, RunFolder(tmp_path, None, "test"), one_rank).state.progress == Progress()


def test_a_run_may_recompute_from_its_middle_on(whole_run: Path, cache: Path, tmp_path: Path, one_rank: Ranks):
    config = run_config(cache)
    train(replace(config, trainer=replace(config.trainer, stop_after=2)), tmp_path, one_rank)
    encoder, decoder = (replace(x, activation_checkpointing=True) for x in (config.model.encoder, config.model.decoder))
    train(replace(config, model=replace(config.model, encoder=encoder, decoder=decoder)), tmp_path, one_rank)
    losses = [[record["loss"] for record in metrics(folder, "train")] for folder in (tmp_path, whole_run)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_batch_that_cannot_be_split_or_filled_is_named(cache: Path, tmp_path: Path, one_rank: Ranks):
    with pytest.raises(ConfigError, match=r"schedule.batch_size: expected at most .* \(12\), got 16"):
        train(run_config(cache, schedule={"batch_size": 16}), tmp_path, one_rank)
    three = replace(one_rank, world_size=3)
    with pytest.raises(ConfigError, match=r"got 16: schedule\.batch_size=12 schedule\.grad_accum_steps=4 fits$"):
        train(run_config(cache, schedule={"batch_size": 16, "grad_accum_steps": 4}), tmp_path, one_rank)
    with pytest.raises(ConfigError, match=r"got 16: schedule\.batch_size=12 schedule\.grad_accum_steps=1 fits$"):
        train(run_config(cache, schedule={"batch_size": 16, "grad_accum_steps": 16}), tmp_path, one_rank)
    with pytest.raises(ConfigError, match=r"schedule.batch_size: expected a multiple of processes \(3\)"):
        train(run_config(cache), tmp_path, three)


def test_metrics_keep_what_lies_before_the_checkpoint(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    lines = [{"kind": "train", "step": step} for step in (1, 2, 3)]
    lines.insert(2, {"kind": "evaluation", "step": 2})
    path.write_text("\n".join(json.dumps(line) for line in lines))
    drop_metrics_after(path, Progress(step=2, evaluated_step=2))
    assert [json.loads(line) for line in path.read_text().splitlines()] == lines[:3]
    for not_evaluated in (0, None):
        path.write_text("\n".join(json.dumps(line) for line in lines))
        drop_metrics_after(path, Progress(step=2, evaluated_step=not_evaluated))
        assert [json.loads(line) for line in path.read_text().splitlines()] == lines[:2]
