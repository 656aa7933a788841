"""Settings under names that they had once: rejected with the new name, and read from the checkpoints that hold them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_helpers import metrics, run_config, train

from litedetr.cli.overrides import parse_overrides
from litedetr.engine.checkpoint import load_checkpoint, load_detector
from litedetr.engine.distributed import Ranks
from litedetr.engine.evaluate_checkpoint import EvalConfig, evaluate_checkpoint
from litedetr.engine.run_config import RunConfig
from litedetr.renamed_settings import RENAMED, with_new_names
from litedetr.settings import ConfigError, from_mapping, to_mapping

IN_EPOCHS = {"max_epochs": 2, "milestones": (1,), "gamma": 0.5, "warmup_steps": 1, "grad_accum_steps": 2}
IN_STEPS = IN_EPOCHS | {"max_epochs": None, "max_steps": 5, "milestones": (2, 4)}
OLD = {
    "epochs": {"length": 2, "unit": "epochs", "drops": [1]},
    "steps": {"length": 5, "unit": "iterations", "drops": [2, 4]},
}


@pytest.mark.parametrize("name", RENAMED)
def test_an_old_name_is_rejected_with_the_new_one(name: str, tmp_path: Path):
    told = f"^{name}: renamed to schedule\\.[a-z_]+(, or schedule.max_steps for optimiser steps)?$"
    for override in (f"{name}=3", f"+{name}=3", f"~{name}"):
        with pytest.raises(ConfigError, match=told):
            parse_overrides(["seed=1", override], is_sweep=False)
    config = to_mapping(run_config(tmp_path))
    config["schedule"][name.removeprefix("schedule.")] = 3
    with pytest.raises(ConfigError, match=told):
        from_mapping(RunConfig, config)


def make_old(path: Path, unit: str) -> None:
    """Give the checkpoint the names that settings had when there was `schedule.length`."""
    content: dict[str, Any] = torch.load(path)
    schedule = content["config"]["schedule"]
    for name in ("max_epochs", "max_steps", "milestones", "gamma", "warmup_steps", "grad_accum_steps"):
        del schedule[name]
    schedule |= OLD[unit] | {"drop_factor": 0.5, "warmup": 1, "accumulate": 2}
    torch.save(content, path)


@pytest.mark.parametrize(("unit", "schedule"), [("epochs", IN_EPOCHS), ("steps", IN_STEPS)])
def test_an_old_checkpoint_goes_on_as_a_new_one(
    unit: str, schedule: dict, cache: Path, tmp_path: Path, one_rank: Ranks, capsys: pytest.CaptureFixture[str]
):
    whole = train(run_config(cache, schedule=schedule), tmp_path / "whole", one_rank)
    train(run_config(cache, schedule=schedule, trainer={"stop_after": 2}), tmp_path / "old", one_rank)
    make_old(tmp_path / "old" / "last.pt", unit)
    config = run_config(cache, schedule=schedule)
    assert load_checkpoint(tmp_path / "old" / "last.pt").config == to_mapping(config) | {
        "trainer": to_mapping(config)["trainer"] | {"stop_after": 2}
    }
    capsys.readouterr()
    resumed = train(config, tmp_path / "old", one_rank)
    told = capsys.readouterr().out
    assert "at step 2 of" in told
    assert "changed" not in told
    assert repr(resumed.scores) == repr(whole.scores)  # one NaN is not equal to another
    assert [record["lr"] for record in metrics(tmp_path / "old", "train")] == [
        record["lr"] for record in metrics(tmp_path / "whole", "train")
    ]


def test_an_old_checkpoint_is_evaluated_and_fine_tuned(cache: Path, tmp_path: Path, one_rank: Ranks):
    train(run_config(cache, schedule=IN_STEPS), tmp_path / "old", one_rank)
    best = tmp_path / "old" / "best.pt"
    make_old(best, "steps")
    assert load_detector(best).config.schedule == run_config(cache, schedule=IN_STEPS).schedule
    evaluation, _ = evaluate_checkpoint(EvalConfig(str(best), device="cpu"))
    assert evaluation.scores.ap == load_checkpoint(best).progress.best_score
    trained = train(
        run_config(cache, schedule={"max_epochs": 1, "milestones": ()}, trainer={"init_from": str(best)}),
        tmp_path / "tuned",
        one_rank,
    )
    assert trained.scores is not None


def test_an_old_run_of_coco_data_is_the_same_run(tmp_path: Path):
    """It holds the defaults of data.shapes, which it doesn't read, and they are others today."""
    config = run_config(tmp_path)
    config = replace(config, data=replace(config.data, name="coco", root="coco", shapes={}))
    old = to_mapping(config)
    old["data"]["shapes"]["max_side"] = 192
    assert from_mapping(RunConfig, with_new_names(old)) == config
