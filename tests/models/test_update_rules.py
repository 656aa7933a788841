"""A rule of one's own is one class and one file of the configuration."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from model_helpers import FULL, random_targets, small_config, small_detector
from torch import nn

from litedetr.cli import compose as compose_module
from litedetr.cli.compose import compose
from litedetr.engine.run_config import RunConfig
from litedetr.losses import Criterion
from litedetr.models import attention_calls, build_detector
from litedetr.models.encoder.blocks import low_hidden
from litedetr.models.encoder.layers import EncoderLayer
from litedetr.models.encoder.update_rules import UPDATE_RULES, EncoderBlock, update_rule
from litedetr.settings import ConfigError
from litedetr.structures import ImageBatch

FILE = """# @package _global_
# Low-level and high-level tokens in turn, the low-level ones first.
encoder:
  update: low_first
  num_high_levels: 2
  num_high_layers: 2
  num_blocks: 2
  num_layers: null
  low_feedforward: null
  low_level_update: true
  dropout: 0.0
  activation_checkpointing: false
"""


@pytest.fixture
def low_first() -> Iterator[None]:
    @update_rule("low_first")
    class LowFirstBlock(EncoderBlock):
        takes = ("num_high_levels", "num_high_layers", "num_blocks", "low_feedforward")

        def __init__(self, config):
            super().__init__()
            numbers = range(config.encoder.num_high_layers)
            self.low_layers = nn.ModuleList(EncoderLayer(config, low_hidden(config)) for _ in numbers)
            self.high_layers = nn.ModuleList(EncoderLayer(config, config.encoder.feedforward) for _ in numbers)

        def forward(self, pyramid, low, high):
            for low_layer, high_layer in zip(self.low_layers, self.high_layers, strict=True):
                pyramid = high_layer.update(low_layer.update(pyramid, low), high)
            return pyramid

    yield
    del UPDATE_RULES["low_first"]


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The real configuration and one more file."""
    shutil.copytree(Path(compose_module.CONFIG_FOLDER), tmp_path / "conf")
    monkeypatch.setattr(compose_module, "CONFIG_FOLDER", str(tmp_path / "conf"))
    (tmp_path / "conf" / "encoder" / "low_first.yaml").write_text(FILE)
    return tmp_path / "conf"


@pytest.mark.usefixtures("low_first", "conf")
def test_one_class_and_one_file_make_a_rule():
    config = RunConfig.from_settings(compose("train", ["encoder=low_first", "run=x"]))
    torch.manual_seed(0)
    model = build_detector(config.model, 3).train()
    images = ImageBatch.from_images([torch.randn(3, 96, 128), torch.randn(3, 80, 128)])
    targets = random_targets(2, 1)
    targets = type(targets)(**{**vars(targets), "boxes": targets.boxes.float()})
    updated = []
    for name, layer in model.encoder.named_modules():
        if isinstance(layer, EncoderLayer):
            layer.register_forward_hook(lambda _, args, __, name=name: updated.append((name, args[1].span)))
    loss = Criterion(config.loss)(model(images, targets), targets).total
    loss.backward()
    assert loss.isfinite()
    num_low = 12 * 16 + 6 * 8
    in_turn = [slice(0, num_low), slice(num_low, num_low + 3 * 4 + 2 * 2)] * 4
    assert [tokens for _, tokens in updated] == in_turn
    assert [name for name, _ in updated[:2]] == ["blocks.0.low_layers.0", "blocks.0.high_layers.0"]
    assert all(p.grad is not None for p in model.encoder.parameters() if p.requires_grad)


@pytest.mark.usefixtures("low_first", "conf")
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("encoder.num_layers=3", "encoder.num_layers: expected null with encoder.update=low_first, got 3"),
        ("encoder.num_blocks=null", "encoder.num_blocks: expected a number with encoder.update=low_first, got None"),
        ("encoder.low_level_update=false", "encoder.low_level_update: expected true with encoder.update=low_first"),
        ("neck.num_levels=1", "neck.num_levels: expected at least 2 with encoder.update=low_first"),
        (
            "encoder.update=both",
            "encoder.update: expected one of 'sequential'.* or 'low_first', got 'b",
        ),
    ],
)
def test_its_settings_are_checked_as_those_of_the_others(override: str, message: str):
    with pytest.raises(ConfigError, match=message):
        RunConfig.from_settings(compose("train", ["encoder=low_first", "run=x", override]))


@pytest.mark.usefixtures("low_first")
def test_a_and_b_are_for_rules_that_take_them():
    with pytest.raises(ConfigError, match="^a: expected null with encoder.update=full, got 6"):
        RunConfig.from_settings(compose("train", ["encoder=full", "run=x", "+a=6"]))
    settings = compose("train", ["encoder=h3l1", "encoder.update=low_first", "a=1", "run=x"])
    assert RunConfig.from_settings(settings).model.encoder.num_high_layers == 1


@pytest.mark.usefixtures("low_first")
def test_its_attentions_are_those_that_autotune_needs():
    calls = attention_calls(small_config(encoder={"update": "low_first"}), (96, 128))
    encoder = {call.query_levels: call.count for call in calls if call.where == "encoder"}
    assert encoder == {(0, 1): 4, (1, 4): 4}


def test_a_rule_takes_only_settings_that_there_are():
    class Block(EncoderBlock):
        takes = ("num_low_layers",)

    with pytest.raises(ValueError, match=r"Block.takes: expected .*num_high_layers.*, got \('num_low_layers',\)"):
        update_rule("low")(Block)
    with pytest.raises(ValueError, match=r"takes: expected a tuple with some of .*num_high_layers.*, got None"):
        update_rule("low")(type("Other", (EncoderBlock,), {}))
    assert "low" not in UPDATE_RULES


def test_a_name_is_given_once():
    with pytest.raises(ValueError, match="update rule 'full': expected a new name, got one that is taken"):
        update_rule("full")(type("Other", (EncoderBlock,), {"takes": ()}))


@pytest.mark.parametrize(
    ("returns", "got"),
    [
        (lambda pyramid: pyramid.from_level(1), r"torch.Size\(\[1, 64, 16\]\)"),
        (lambda pyramid: pyramid.tokens, "Tensor"),
    ],
)
def test_a_block_that_returns_no_whole_pyramid_is_named(monkeypatch, returns, got):
    class Cut(EncoderBlock):
        takes = ("num_layers",)

        def __init__(self, config):
            super().__init__()

        def forward(self, pyramid, low, high):
            return returns(pyramid)

    monkeypatch.setitem(UPDATE_RULES, "full", Cut)
    model = small_detector(encoder=FULL)
    images = ImageBatch.from_images([torch.randn(3, 96, 128, dtype=torch.float64)])
    with pytest.raises(ValueError, match=f"^Cut: expected it to return a pyramid with tokens .*, got {got}$"):
        model(images)


@pytest.mark.usefixtures("conf")
def test_a_rule_without_a_has_null_for_it(monkeypatch, tmp_path: Path):
    class NoA(EncoderBlock):
        takes = ("num_high_levels", "num_blocks")

    monkeypatch.setitem(UPDATE_RULES, "no_a", NoA)
    file = "# @package _global_\ndefaults: [h3l1, _self_]\na: null\nb: 2\nencoder: {update: no_a}\n"
    (tmp_path / "conf" / "encoder" / "no_a.yaml").write_text(file)
    encoder = RunConfig.from_settings(compose("train", ["encoder=no_a", "run=x"])).model.encoder
    assert (encoder.num_high_levels, encoder.num_high_layers, encoder.num_blocks) == (3, None, 2)


def test_a_name_that_is_no_rule_is_told_the_rules():
    with pytest.raises(ConfigError, match="^encoder.update: expected one of 'sequential', 'joint'.* or '.*', got 'x'$"):
        small_config(encoder={"update": "x"})
