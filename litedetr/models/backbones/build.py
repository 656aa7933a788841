"""From a BackboneConfig to a backbone with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

from torch import nn

from litedetr.models.backbones.efficientnet_lite import SCALES, EfficientNetLite
from litedetr.models.backbones.resnet import DEPTHS, ResNet
from litedetr.models.backbones.transformers import PREFIX, TransformersBackbone
from litedetr.models.detector_config import BackboneConfig
from litedetr.settings import require

Maker = Callable[[BackboneConfig, int, bool], nn.Module]


def build_backbone(config: BackboneConfig, num_outputs: int, exact_padding: bool) -> nn.Module:
    """The backbone that `config.name` names, with random weights: ImageBatch -> list[FeatureMap], fine to coarse.

    What another backbone needs: `out_channels`, one number for each of its maps; `channels_last`, whether they have
    this layout; and `classifier`, what the names of parameters begin with that a file of ImageNet weights has beside
    its own. A line in MAKERS makes it known. Its settings go into BackboneConfig, a file of defaults into
    conf/backbone/.

    num_outputs: how many of its stages to return, counted from the last.
    exact_padding: keep padding out of the features.
    Raises ConfigError if there is no such backbone, or for a setting that it does not take.
    """
    if config.name.startswith(PREFIX):
        return _transformers(config, num_outputs, exact_padding)
    require(config.name in MAKERS, "backbone.name", f"one of {', '.join(MAKERS)} or {PREFIX}<model>", config.name)
    return MAKERS[config.name](config, num_outputs, exact_padding)


def _resnet(config: BackboneConfig, num_outputs: int, exact_padding: bool) -> nn.Module:
    return ResNet(config.name, config.norm, config.width, config.frozen_stages, num_outputs, exact_padding)


def _efficientnet_lite(config: BackboneConfig, num_outputs: int, exact_padding: bool) -> nn.Module:
    default = next(field.default for field in fields(BackboneConfig) if field.name == "width")
    expected = f"{default}, the default, with backbone.name={config.name}, whose stem has a fixed width"
    require(config.width == default, "backbone.width", expected, config.width)
    return EfficientNetLite(config.name, config.norm, config.frozen_stages, num_outputs, exact_padding)


def _transformers(config: BackboneConfig, num_outputs: int, exact_padding: bool) -> nn.Module:
    expected = f"0 with backbone.name={config.name}"
    require(config.frozen_stages == 0, "backbone.frozen_stages", expected, config.frozen_stages)
    return TransformersBackbone(config.name.removeprefix(PREFIX), num_outputs)


MAKERS: dict[str, Maker] = {**dict.fromkeys(DEPTHS, _resnet), **dict.fromkeys(SCALES, _efficientnet_lite)}
