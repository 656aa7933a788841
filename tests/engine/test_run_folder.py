import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_helpers import run_config

from litedetr.data import Categories
from litedetr.engine.changed_settings import changed_settings
from litedetr.engine.checkpoint import Checkpoint, CheckpointError, Progress, save_checkpoint
from litedetr.engine.distributed import Ranks
from litedetr.engine.resume import agree_on_run_folder, choose_run_folder
from litedetr.engine.run_config import RunConfig
from litedetr.engine.run_folder import RunFolder
from litedetr.settings import ConfigError, to_mapping


def checkpoint_of(config: RunConfig) -> Checkpoint:
    return Checkpoint(to_mapping(config), Categories(("cat",), (1,)), {}, None, {}, {}, Progress(), 3)


def add_run(root: Path, name: str, config: RunConfig, age: float, finished: bool = False) -> Path:
    folder = root / name
    folder.mkdir()
    save_checkpoint(folder / "last.pt", checkpoint_of(config))
    os.utime(folder / "last.pt", (1e9 - age, 1e9 - age))
    if finished:
        (folder / "results.json").write_text("{}")
    return folder


def config_with(tmp_path: Path, **trainer: object) -> RunConfig:
    return run_config(tmp_path, trainer=trainer)


def test_a_name_begins_a_run_and_auto_continues_it(tmp_path: Path):
    auto = config_with(tmp_path, resume="auto")
    assert choose_run_folder(tmp_path, "foo", auto).resume_from is None
    folder = add_run(tmp_path, "foo", auto, age=0)
    chosen = choose_run_folder(tmp_path, "foo", auto)
    assert (chosen.path, chosen.resume_from) == (folder, folder / "last.pt")


def test_a_name_may_have_bytes_that_are_no_text(tmp_path: Path):
    assert choose_run_folder(tmp_path, "by\udcff", config_with(tmp_path)).path == tmp_path / "by\udcff"


def test_a_run_is_never_overwritten(tmp_path: Path):
    config = config_with(tmp_path)
    add_run(tmp_path, "foo", config, age=0)
    with pytest.raises(ConfigError, match=r"run=foo: .* holds a run already; resume=auto"):
        choose_run_folder(tmp_path, "foo", config)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "../a", "a/", "a" * 256])
def test_a_run_is_a_folder_right_under_the_others(tmp_path: Path, name: str):
    """Elsewhere resume=auto would not find it; `runs` itself would mix it with the others."""
    for resume in ("never", "auto", "some.pt"):
        with pytest.raises(ConfigError, match=r"^run: expected the name of a folder under .*, without slashes, got "):
            choose_run_folder(tmp_path, name, config_with(tmp_path, resume=resume))


def test_without_a_name_runs_do_not_collide(tmp_path: Path):
    config = config_with(tmp_path)
    first = choose_run_folder(tmp_path, None, config).path
    first.mkdir()
    second = choose_run_folder(tmp_path, None, config).path
    assert first != second
    assert first.parent == second.parent == tmp_path


def test_auto_without_a_name_takes_the_newest_unfinished_run_of_the_same_configuration(tmp_path: Path):
    config = config_with(tmp_path, resume="auto")
    add_run(tmp_path, "finished", config, age=1, finished=True)
    add_run(tmp_path, "other_seed", replace(config, seed=5), age=2)
    wanted = add_run(tmp_path, "wanted", config_with(tmp_path, log_every=7), age=3)
    add_run(tmp_path, "older", config, age=4)
    assert choose_run_folder(tmp_path, None, config).path == wanted


@pytest.mark.parametrize(
    ("results", "finished"),
    [({"step": 4}, True), ({"step": 2}, False), ({"step": 6}, False), ({}, True), ("damaged", True)],
)
def test_a_run_is_finished_where_its_results_are_of_its_last_step(tmp_path: Path, results: object, finished: bool):
    """It may have been begun again, with a longer schedule or from a checkpoint before its last."""
    config = config_with(tmp_path, resume="auto")
    folder = add_run(tmp_path, "foo", config, age=0)
    save_checkpoint(folder / "last.pt", replace(checkpoint_of(config), progress=Progress(4, evaluated_step=4)))
    (folder / "results.json").write_text(json.dumps(results)[:-1] if results == "damaged" else json.dumps(results))
    assert (choose_run_folder(tmp_path, None, config).resume_from is None) == finished


def test_no_other_run_is_replaced_by_the_one_to_continue(tmp_path: Path):
    folder = add_run(tmp_path, "foo", config_with(tmp_path), age=0)
    add_run(tmp_path, "bar", config_with(tmp_path), age=1)
    with pytest.raises(ConfigError, match=r"run=bar: .*bar holds another run already, which .*foo would replace"):
        choose_run_folder(tmp_path, "bar", config_with(tmp_path, resume=str(folder)))
    assert choose_run_folder(tmp_path, "foo", config_with(tmp_path, resume=str(folder))).path == folder


def test_auto_without_a_name_says_when_there_is_nothing_to_continue(tmp_path: Path):
    chosen = choose_run_folder(tmp_path, None, config_with(tmp_path, resume="auto"))
    assert chosen.resume_from is None
    assert "no unfinished run of this configuration" in chosen.note


def test_a_path_continues_a_checkpoint_or_a_folder(tmp_path: Path):
    folder = add_run(tmp_path, "foo", config_with(tmp_path), age=0)
    for path in (folder, folder / "last.pt"):
        chosen = choose_run_folder(tmp_path, None, config_with(tmp_path, resume=str(path)))
        assert (chosen.path, chosen.resume_from) == (folder, folder / "last.pt")
    elsewhere = choose_run_folder(tmp_path, "bar", config_with(tmp_path, resume=str(folder)))
    assert (elsewhere.path, elsewhere.resume_from) == (tmp_path / "bar", folder / "last.pt")
    with pytest.raises(CheckpointError, match="resume=atuo: no such checkpoint; expected auto, never"):
        choose_run_folder(tmp_path, None, config_with(tmp_path, resume="atuo"))


def test_settings_that_are_younger_than_a_checkpoint_have_their_defaults(tmp_path: Path):
    config = run_config(tmp_path)
    checkpoint = checkpoint_of(config)
    del checkpoint.config["model"]["hybrid"], checkpoint.config["model"]["decoder"]["heads"]
    assert changed_settings(checkpoint, config) == []
    own_heads = replace(config, model=replace(config.model, decoder=replace(config.model.decoder, heads="per_layer")))
    with pytest.raises(CheckpointError, match=r"model.decoder.heads: shared -> per_layer"):
        changed_settings(checkpoint, own_heads)


def test_a_changed_model_is_refused_and_other_changes_are_told(tmp_path: Path):
    config = run_config(tmp_path)
    checkpoint = checkpoint_of(config)
    assert changed_settings(checkpoint, config_with(tmp_path, log_every=3)) == []
    assert changed_settings(checkpoint, replace(config, seed=4)) == ["seed: 0 -> 4"]
    wider = replace(config, model=replace(config.model, decoder=replace(config.model.decoder, feedforward=32)))
    with pytest.raises(CheckpointError, match=r"model.decoder.feedforward: 16 -> 32"):
        changed_settings(checkpoint, wider)


class SecondOfTwo(Ranks):
    """The main rank's choice is given."""

    def __init__(self, choice: RunFolder) -> None:
        super().__init__(torch.device("cpu"), rank=1, world_size=2)
        object.__setattr__(self, "choice", choice)

    def gather(self, value: RunFolder) -> list[RunFolder]:
        return [self.choice, value]


def test_all_ranks_take_the_choice_of_the_main_one(tmp_path: Path):
    """Whose clock may have moved on since it named the folder."""
    config = config_with(tmp_path, resume="auto")
    choice = RunFolder(tmp_path / "by time", None, "new run")
    assert agree_on_run_folder(tmp_path, None, config, SecondOfTwo(choice)) is choice


@pytest.mark.parametrize("main_has_it", [True, False])
def test_a_run_that_only_one_machine_has_does_not_begin_anew(tmp_path: Path, main_has_it: bool):
    config = config_with(tmp_path, resume="auto")
    mine, other = tmp_path / "mine", tmp_path / "other"
    holder = other if main_has_it else mine
    holder.mkdir()
    add_run(holder, "foo", config, age=0)
    ranks = SecondOfTwo(choose_run_folder(other, "foo", config))
    with pytest.raises(ConfigError, match=r"mine: .* that all machines share.* got '.*last.pt and none'"):
        agree_on_run_folder(mine, "foo", config, ranks)
