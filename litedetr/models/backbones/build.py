"""From a BackboneConfig to a backbone with random weights."""

from __future__ import annotations

from torch import nn

from litedetr.models.backbones.resnet import DEPTHS, ResNet
from litedetr.models.backbones.transformers import PREFIX, TransformersBackbone
from litedetr.models.detector_config import BackboneConfig
from litedetr.settings import require


def build_backbone(config: BackboneConfig, num_outputs: int, exact_padding: bool) -> nn.Module:
    """The backbone that `config.name` names, with random weights: ImageBatch -> list[FeatureMap], fine to coarse.

    What another backbone needs: `out_channels`, one number for each of its maps, and `channels_last`, whether they have
    this layout. Its settings go into BackboneConfig, a file of defaults into conf/backbone/.

    num_outputs: how many of its stages to return, counted from the last.
    exact_padding: keep padding out of the features.
    Raises ConfigError if there is no such backbone.
    """
    if config.name.startswith(PREFIX):
        expected = f"0 with backbone.name={config.name}"
        require(config.frozen_stages == 0, "backbone.frozen_stages", expected, config.frozen_stages)
        return TransformersBackbone(config.name.removeprefix(PREFIX), num_outputs)
    require(config.name in DEPTHS, "backbone.name", f"one of {', '.join(DEPTHS)} or {PREFIX}<model>", config.name)
    return ResNet(config.name, config.norm, config.width, config.frozen_stages, num_outputs, exact_padding)
