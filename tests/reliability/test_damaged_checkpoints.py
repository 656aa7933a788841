"""A checkpoint that is not what was saved is refused by name, in one line, and nothing in it is run."""

import os
import random
import zipfile
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_helpers import MODEL, run_config
from fault_helpers import assert_identical

from litedetr.data import Categories
from litedetr.engine.build_trainer import build_trainer
from litedetr.engine.checkpoint import (
    Checkpoint,
    CheckpointError,
    Progress,
    load_checkpoint,
    load_detector,
    save_checkpoint,
)
from litedetr.engine.distributed import Ranks
from litedetr.engine.resume import checkpoint_to_continue, choose_run_folder
from litedetr.models import build_detector
from litedetr.settings import to_mapping

NUM_FLIPS = 60


def checkpoint(folder: Path, **settings: Any) -> Checkpoint:
    torch.manual_seed(0)
    weights = build_detector(MODEL, 2).state_dict()
    moments = {"weight": {"step": torch.tensor(5.0), "exp_avg": torch.ones(2)}}
    config = to_mapping(replace(run_config(folder), **settings))
    return Checkpoint(config, Categories(("cat", "dog"), (3, 17)), weights, weights, moments, {}, Progress(5, 3), 3)


@pytest.fixture
def last(tmp_path: Path) -> Path:
    path = tmp_path / "runs" / "foo" / "last.pt"
    path.parent.mkdir(parents=True)
    save_checkpoint(path, checkpoint(tmp_path))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(path)
    text = str(error.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text


def test_a_flipped_bit_is_noticed_wherever_it_lies(last: Path):
    """Or changes nothing: some bytes only fill up the file. torch.load alone takes nearly all of them for weights."""
    whole, expected = last.read_bytes(), load_checkpoint(last)
    rng, refused = random.Random(0), 0
    for _ in range(NUM_FLIPS):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        last.write_bytes(damaged)
        try:
            loaded = load_checkpoint(last)
        except CheckpointError:
            refused += 1
            continue
        for field in fields(Checkpoint):
            assert_identical(getattr(loaded, field.name), getattr(expected, field.name), field.name)
    assert refused > 0.9 * NUM_FLIPS


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_a_file_cut_short_is_refused(last: Path, kept: float):
    whole = last.read_bytes()
    last.write_bytes(whole[: int(kept * len(whole))])
    assert "damaged or no PyTorch file; take the run's other checkpoint" in refusal(last)


def test_what_is_no_checkpoint_is_refused(last: Path, tmp_path: Path):
    assert "no such checkpoint" in refusal(last.parent)
    text = tmp_path / "notes.txt"
    text.write_text("step 5\n")
    assert "no PyTorch file" in refusal(text)
    archive = tmp_path / "archive.pt"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.txt", "a")
    assert "damaged or no PyTorch file" in refusal(archive)
    torch.save([1, 2], archive)
    assert "not a checkpoint of this project" in refusal(archive)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"version": 99}, "has format version 99, this code reads version 1"),
        ({"version": None}, "has format version None, this code reads version 1"),
        ({"model": None}, "not a whole checkpoint; take another one (model: expected a value, got None)"),
        ({"progress": None}, "(progress: expected a value, got None)"),
        ({"model": torch.ones(3, 3)}, "(model: expected a mapping, got tensor("),
        ({"model": {"weight": "heavy"}}, "(model.weight: expected a Tensor, got 'heavy')"),
        ({"optimizer": {"weight": 3}}, "(optimizer.weight: expected a mapping, got 3)"),
        ({"progress": {"step": "five"}}, "(progress.step: expected an integer, got 'five')"),
        ({"progress": {"steps": 5}}, "(progress.steps: expected one of step, "),
        ({"steps_per_epoch": 2.5}, "(steps_per_epoch: expected an integer, got 2.5)"),
        ({"categories": {"names": ["cat"], "ids": 3}}, "(categories.ids: expected a list, got 3)"),
        ({"categories": {"names": ["cat"], "ids": [3, 4]}}, "(categories need as many names as ids"),
        ({"config": {"data": {}}}, "(config.model: expected the settings of a detector, got None)"),
    ],
)
def test_fields_that_are_missing_or_of_another_type_are_named(last: Path, changed: dict[str, Any], message: str):
    """None: the field is left out."""
    content = torch.load(last) | changed
    torch.save({name: value for name, value in content.items() if value is not None}, last)
    assert message in refusal(last)


class Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def test_code_in_a_file_is_not_run(last: Path, tmp_path: Path):
    marker = tmp_path / "marker"
    torch.save(torch.load(last) | {"scaler": {"state": Malicious(marker)}}, last)
    assert "Weights only load failed" in refusal(last)
    assert not marker.exists()
    torch.load(last, weights_only=False)  # the file is as dangerous as it is meant to be
    assert marker.exists()


def test_the_detector_of_an_unknown_configuration_is_refused(last: Path, tmp_path: Path):
    content = torch.load(last)
    content["config"]["model"]["encoder"]["spirals"] = 3
    torch.save(content, last)
    with pytest.raises(CheckpointError, match=rf"{last}: its configuration does not fit.*model\.encoder\.spirals"):
        load_detector(last)
    other = checkpoint(tmp_path)
    save_checkpoint(last, replace(other, model=dict(list(other.model.items())[1:]), ema=None))
    with pytest.raises(CheckpointError, match=rf"{last}: its weights do not fit the model"):
        load_detector(last)


def test_a_damaged_last_checkpoint_points_to_the_best_one(last: Path, tmp_path: Path):
    best = last.with_name("best.pt")
    save_checkpoint(best, replace(checkpoint(tmp_path), progress=Progress(3, 3)))
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=f"{last}: .*; {best} is whole: resume={best} continues from its step 3"):
        checkpoint_to_continue(last)
    best.unlink()
    with pytest.raises(CheckpointError, match=f"{last}: .*no other whole one: begin anew with another run=... name"):
        checkpoint_to_continue(last)


def test_a_run_is_not_continued_from_its_best_checkpoint_unasked(cache: Path, tmp_path: Path, one_rank: Ranks):
    config = run_config(cache, trainer={"resume": "auto"})
    stopped = replace(config, trainer=replace(config.trainer, stop_after=4))
    build_trainer(stopped, choose_run_folder(tmp_path, "foo", stopped), one_rank).run()
    last = tmp_path / "foo" / "last.pt"
    last.write_bytes(b"")
    for name in ("foo", None):
        chosen = choose_run_folder(tmp_path, name, config)
        with pytest.raises(CheckpointError, match=r"resume=.*foo/best\.pt continues from its step 3"):
            build_trainer(config, chosen, one_rank)
    assert last.read_bytes() == b""
    best = replace(config, trainer=replace(config.trainer, resume=str(last.with_name("best.pt"))))
    trainer = build_trainer(best, choose_run_folder(tmp_path, None, best), one_rank)
    trainer.run()
    assert load_checkpoint(last).progress.step == 6


def test_the_damaged_checkpoint_of_another_run_is_passed_over_and_told(last: Path, tmp_path: Path):
    root, auto = last.parent.parent, run_config(tmp_path, trainer={"resume": "auto"})
    other = root / "other"
    other.mkdir()
    (other / "last.pt").write_bytes(b"cut")
    chosen = choose_run_folder(root, None, auto)
    assert (chosen.resume_from, chosen.path) == (last, last.parent)
    assert chosen.note.endswith(f"passed over, since it cannot be read: {other / 'last.pt'}")
    chosen = choose_run_folder(root, None, replace(auto, seed=5))
    assert chosen.resume_from is None
    assert f"passing over {other / 'last.pt'}, which cannot be read: new run in" in chosen.note
    save_checkpoint(other / "best.pt", checkpoint(tmp_path, seed=5))  # so it is this one's after all
    assert choose_run_folder(root, None, replace(auto, seed=5)).resume_from == other / "last.pt"
