"""Beginning with the weights of another run, on the same classes or on others."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_helpers import MODEL, run_config

from litedetr.data import Categories
from litedetr.engine.checkpoint import Checkpoint, CheckpointError, Progress, save_checkpoint
from litedetr.engine.fine_tune import initialise_from
from litedetr.models import DetectorConfig, build_detector
from litedetr.models.detector_config import DenoisingConfig
from litedetr.settings import to_mapping

CLASSES = Categories(("cat", "dog"), (3, 17))
FIVE = Categories(("a", "b", "c", "d", "e"), (1, 2, 3, 4, 5))
BY_CLASS = {
    "decoder.head.classes.weight",
    "decoder.head.classes.bias",
    "query_selection.head.classes.weight",
    "query_selection.head.classes.bias",
    "denoising.labels.weight",
}


@pytest.fixture
def best(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "best.pt", checkpoint(MODEL, tmp_path))
    return tmp_path / "best.pt"


def checkpoint(model: DetectorConfig, folder: Path) -> Checkpoint:
    """Of two classes, with averaged weights."""
    return Checkpoint(
        config=to_mapping(replace(run_config(folder), model=model)),
        categories=CLASSES,
        model=build_detector(model, 2).state_dict(),
        ema=build_detector(model, 2).state_dict(),
        optimizer={},
        scaler={},
        progress=Progress(),
        steps_per_epoch=3,
    )


def averaged(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["ema"]


def test_the_same_classes_take_everything(best: Path):
    model = build_detector(MODEL, 2)
    start = initialise_from(model, CLASSES, best)
    assert (start.left, start.notes) == ((), ())
    assert start.taken == len(model.state_dict())
    assert all(torch.equal(model.state_dict()[name], value) for name, value in averaged(best).items())


def test_of_a_run_folder_the_best_weights_are_taken(best: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(best.parent.parent))
    for place in (best.parent, f"~/{best.parent.name}"):
        model = build_detector(MODEL, 2)
        initialise_from(model, CLASSES, place)
        assert all(torch.equal(model.state_dict()[name], value) for name, value in averaged(best).items())


def test_another_number_of_classes_leaves_what_counts_classes(best: Path):
    model = build_detector(MODEL, 5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    start = initialise_from(model, FIVE, best)
    assert set(start.left) == BY_CLASS
    assert start.taken == len(before) - len(BY_CLASS)
    theirs = averaged(best)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name] if name in BY_CLASS else theirs[name]), name


def test_heads_of_each_layer_count_classes_too(tmp_path: Path):
    of_layers = replace(MODEL, decoder=replace(MODEL.decoder, heads="per_layer"))
    save_checkpoint(tmp_path / "best.pt", checkpoint(of_layers, tmp_path))
    start = initialise_from(build_detector(of_layers, 5), FIVE, tmp_path / "best.pt")
    own = {f"decoder.heads.{i}.classes.{part}" for i in range(2) for part in ("weight", "bias")}
    assert set(start.left) == own | {name for name in BY_CLASS if not name.startswith("decoder")}


def test_as_many_other_classes_are_remarked_upon(best: Path):
    start = initialise_from(build_detector(MODEL, 2), Categories(("hen", "egg"), (1, 2)), best)
    assert start.left == ()
    assert "the class heads start as those of the other classes" in start.notes[0]


def test_another_model_is_refused_by_tensor_and_setting(best: Path):
    wider = replace(MODEL, decoder=replace(MODEL.decoder, feedforward=24, num_layers=1))
    with pytest.raises(CheckpointError) as refused:
        initialise_from(build_detector(wider, 5), FIVE, best)
    message = str(refused.value)
    assert str(best) in message
    assert "only in the checkpoint: decoder.layers.1." in message
    assert "of another shape: decoder.layers.0.feedforward.linear1.weight (16, 16), not (24, 16)" in message
    assert "decoder.feedforward: 16 -> 24" in message
    assert "decoder.num_layers: 2 -> 1" in message
    assert not [name for name in BY_CLASS if name in message]
    joint = replace(MODEL, encoder=replace(MODEL.encoder, update="joint"))
    with pytest.raises(
        CheckpointError, match=r"sequential -> joint(.|\n)*only in the model: encoder\.blocks\.0\.joint_layer"
    ):
        initialise_from(build_detector(joint, 2), CLASSES, best)


def test_a_refused_checkpoint_changes_nothing(best: Path):
    other = build_detector(replace(MODEL, decoder=replace(MODEL.decoder, feedforward=24)), 2)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(CheckpointError):
        initialise_from(other, CLASSES, best)
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


def test_settings_that_no_tensor_shows_are_remarked_upon(best: Path):
    start = initialise_from(build_detector(replace(MODEL, padding="published"), 2), CLASSES, best)
    assert start.notes == ("another model setting than there: padding: exact -> published",)


def test_denoising_may_begin_or_end(best: Path, tmp_path: Path):
    quiet = replace(MODEL, denoising=DenoisingConfig(num_pairs=0))
    assert initialise_from(build_detector(quiet, 2), CLASSES, best).left == ()
    save_checkpoint(tmp_path / "quiet.pt", checkpoint(quiet, tmp_path))
    start = initialise_from(build_detector(MODEL, 2), CLASSES, tmp_path / "quiet.pt")
    assert start.left == ("denoising.labels.weight",)


def test_a_class_head_is_missed_where_it_should_fit(best: Path, tmp_path: Path):
    content = torch.load(best, weights_only=True)
    del content["ema"]["decoder.head.classes.bias"]
    torch.save(content, tmp_path / "cut.pt")
    with pytest.raises(CheckpointError, match=r"only in the model: decoder\.head\.classes\.bias$"):
        initialise_from(build_detector(MODEL, 2), CLASSES, tmp_path / "cut.pt")
