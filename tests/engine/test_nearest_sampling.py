"""attention.sampling from run to run: older checkpoints are bilinear; fine-tuning may go from bilinear to nearest."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_helpers import run_config, train

from litedetr.engine.checkpoint import CheckpointError, load_checkpoint, load_detector
from litedetr.engine.distributed import Ranks
from litedetr.engine.evaluate_checkpoint import EvalConfig, evaluate_checkpoint
from litedetr.engine.run_config import RunConfig


@pytest.fixture
def bilinear(cache: Path, tmp_path: Path, one_rank: Ranks) -> Path:
    """The folder of a run that stopped in its middle."""
    train(run_config(cache, trainer={"stop_after": 2}), tmp_path / "bilinear", one_rank)
    return tmp_path / "bilinear"


def nearest(config: RunConfig) -> RunConfig:
    attention = replace(config.model.attention, sampling="nearest")
    return replace(config, model=replace(config.model, attention=attention))


def test_a_checkpoint_from_before_there_was_a_choice_goes_on(
    bilinear: Path, cache: Path, tmp_path: Path, one_rank: Ranks, capsys: pytest.CaptureFixture[str]
):
    last = bilinear / "last.pt"
    content = torch.load(last)
    assert content["config"]["model"]["attention"].pop("sampling") == "bilinear"
    torch.save(content, last)
    assert load_detector(last).config.model.attention.sampling == "bilinear"
    capsys.readouterr()
    train(run_config(cache), bilinear, one_rank)
    told = capsys.readouterr().out
    assert "at step 2 of" in told
    assert "changed" not in told
    whole = train(run_config(cache), tmp_path / "whole", one_rank)
    resumed = load_checkpoint(last).model
    assert all(torch.equal(resumed[name], value) for name, value in whole.state.model.state_dict().items())


def test_another_sampling_is_another_model_to_a_resumed_run(bilinear: Path, cache: Path, one_rank: Ranks):
    with pytest.raises(CheckpointError, match=r"(?s)another model.*attention\.sampling: bilinear -> nearest"):
        train(nearest(run_config(cache)), bilinear, one_rank)


def test_fine_tuning_to_nearest_keeps_the_offsets(
    bilinear: Path, cache: Path, tmp_path: Path, one_rank: Ranks, capsys: pytest.CaptureFixture[str]
):
    start = load_checkpoint(bilinear / "last.pt").weights
    config = nearest(run_config(cache, trainer={"init_from": str(bilinear / "last.pt")}))
    trained = train(config, tmp_path / "tuned", one_rank)
    assert "another model setting than there: attention.sampling: bilinear -> nearest" in capsys.readouterr().out
    offsets = {name for name in start if ".sampling_offsets." in name}
    weights = trained.state.model.state_dict()
    assert {name for name in offsets if torch.equal(weights[name], start[name])} == offsets
    changed = [name for name in start if not torch.equal(weights[name], start[name])]
    assert len(changed) > 0.7 * (len(start) - len(offsets))
    evaluation, _ = evaluate_checkpoint(EvalConfig(str(tmp_path / "tuned" / "last.pt"), device="cpu"))
    assert repr(evaluation.scores) == repr(trained.scores)  # one NaN is not equal to another
