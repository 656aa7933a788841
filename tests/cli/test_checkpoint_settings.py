"""The settings that make the model of a checkpoint."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from litedetr.cli.checkpoint_settings import settings_of_checkpoint
from litedetr.engine.checkpoint import CheckpointError, OtherModelError
from litedetr.engine.run_config import detector_config
from litedetr.settings import to_mapping

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture(autouse=True)
def conf():
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base=None):
        yield


def model(*overrides: str) -> dict:
    return to_mapping(detector_config(OmegaConf.to_container(compose("train", list(overrides)), resolve=True)))


@pytest.mark.parametrize(
    ("checkpoint", "given", "fitting"),
    [
        ([], ["experiment=finetune"], ["size=small", "backbone=resnet18_slim"]),
        (["a=2", "b=3"], ["experiment=finetune"], ["size=small", "backbone=resnet18_slim", "a=2", "b=3"]),
        (
            ["backbone=resnet50"],
            ["backbone=resnet18", "decoder.num_layers=2"],
            ["backbone=resnet50", "decoder.num_layers=3"],
        ),
        (["model=dino_4scale", "size=paper"], [], ["model=dino_4scale", "size=paper"]),
        (["neck.channels=64"], ["size=paper"], ["size=small", "neck.channels=64"]),
        (["encoder.low_feedforward=64"], ["encoder.low_feedforward=32"], ["encoder.low_feedforward=64"]),
        ([], ["encoder.low_feedforward=32"], ["encoder.low_feedforward=null"]),
        (["encoder.activation_checkpointing=true"], [], []),
    ],
)
def test_groups_come_first_and_single_settings_for_the_rest(checkpoint: list, given: list, fitting: list):
    assert settings_of_checkpoint(model(*checkpoint), given) == fitting
    replaced = {text.partition("=")[0] for text in fitting}
    kept = [text for text in given if text.partition("=")[0] not in replaced]
    mine, theirs = model(*kept, *fitting), model(*checkpoint)
    for part in ("encoder", "decoder"):  # what recomputes is no other model
        mine[part]["activation_checkpointing"] = theirs[part]["activation_checkpointing"]
    mine["backbone"]["weights"] = theirs["backbone"]["weights"]
    assert mine == theirs


def test_the_advice_stands_before_the_details():
    error = OtherModelError("another model", "\n  details", {})
    assert str(error) == "another model\n  details"
    assert str(error.advising("size=small")) == "another model; settings that fit it: size=small\n  details"
    assert isinstance(error, CheckpointError)
