"""Checkpoints whose tensors have older names: resumed, used and fine-tuned as those of today."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_helpers import MODEL, metrics, run_config, train

from litedetr.engine.checkpoint import load_checkpoint, load_detector
from litedetr.engine.distributed import Ranks
from litedetr.engine.run_config import RunConfig
from litedetr.models.detector_config import EncoderConfig

NEW, OLD = "encoder.blocks.0.layers.", "encoder.layers."


def full_config(cache: Path, **changes) -> RunConfig:
    encoder = EncoderConfig("full", num_layers=2, feedforward=16)
    return replace(run_config(cache, **changes), model=replace(MODEL, encoder=encoder))


def make_old(path: Path) -> None:
    """Give the tensors the names that a full encoder's had."""
    content = torch.load(path)
    for part in ("model", "ema", "optimizer"):
        assert any(name.startswith(NEW) for name in content[part])
        content[part] = {name.replace(NEW, OLD): value for name, value in content[part].items()}
    torch.save(content, path)


@pytest.fixture
def old(cache: Path, tmp_path: Path, one_rank: Ranks) -> Path:
    train(full_config(cache, trainer={"stop_after": 4}), tmp_path / "old", one_rank)
    make_old(tmp_path / "old" / "last.pt")
    make_old(tmp_path / "old" / "best.pt")
    return tmp_path / "old"


def test_it_is_resumed(old: Path, cache: Path, tmp_path: Path, one_rank: Ranks):
    train(full_config(cache), tmp_path / "whole", one_rank)
    train(full_config(cache), old, one_rank)
    losses = [[record["loss"] for record in metrics(folder, "train")] for folder in (tmp_path / "whole", old)]
    assert losses[0] == losses[1]
    mine, theirs = load_checkpoint(old / "last.pt"), load_checkpoint(tmp_path / "whole" / "last.pt")
    assert all(torch.equal(mine.model[name], value) for name, value in theirs.model.items())


def test_it_is_used_and_fine_tuned(old: Path, cache: Path, tmp_path: Path, one_rank: Ranks):
    detector = load_detector(old / "best.pt").model
    weights = torch.load(old / "best.pt")["ema"]
    for name, value in detector.encoder.blocks[0].layers.state_dict().items():
        assert torch.equal(value, weights[OLD + name])
    trainer = {"init_from": str(old / "best.pt"), "stop_after": 1}
    assert train(full_config(cache, trainer=trainer), tmp_path / "tuned", one_rank) is not None
    assert (tmp_path / "tuned" / "last.pt").exists()
