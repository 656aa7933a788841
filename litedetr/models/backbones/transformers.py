"""Swin, ConvNeXt, DINOv2 and other backbones of the `transformers` library (an optional extra)."""

from __future__ import annotations

from typing import Any

from torch import nn

from litedetr.models.backbones.padding import FeatureMap, PaddingMask, zero_padding
from litedetr.paths import user_path
from litedetr.settings import ConfigError
from litedetr.structures import ImageBatch

PREFIX = "transformers:"
# The norm of a last hidden state, which no stage's output comes from.
IDLE = ("swin.layernorm.", "focalnet.layernorm.")
# The library's hooks, and its mark of a model that has them.
HOOKS, HOOKED = "transformers.utils.output_capturing", "_output_capturing_hooks_installed"


class TransformersBackbone(nn.Module):
    """The last stages of a `transformers` backbone.

    Its attention windows see the padding, so a batch of several sizes gives slightly other features than each image
    by itself. Behind the backbone, padding is zeroed.

    name: a model type with its default configuration and random weights (`swin`, `convnext`), or a folder or hub name
        with a configuration and weights.
    num_outputs: how many stages to return, counted from the last.
    """

    channels_last = False  # the maps keep the images' layout
    classifier = ("fc.",)

    def __init__(self, name: str, num_outputs: int) -> None:
        super().__init__()
        try:
            from transformers import AutoBackbone, AutoConfig
        except ImportError as error:
            raise ConfigError(
                f"backbone.name: {PREFIX}{name} needs the optional packages: pip install litedetr[backbones]"
            ) from error
        stages = list(range(1, 5))[-num_outputs:]
        features = [f"stage{stage}" for stage in stages]
        if name in _model_types():
            config = AutoConfig.for_model(name, out_features=features)
            for key, value in vars(config).items():
                if isinstance(value, tuple):  # some releases' own defaults; ConvNeXt adds lists to them
                    setattr(config, key, list(value))
            self.body = AutoBackbone.from_config(config)
        else:
            self.body = _pretrained(name, features)
        for parameter_name, parameter in self.body.named_parameters():
            if parameter_name.startswith(IDLE):  # several processes would wait for a gradient that never comes
                parameter.requires_grad_(False)
        self.strides = [2 ** (stage + 1) for stage in stages]
        self.out_channels = list(self.body.channels)

    def forward(self, images: ImageBatch) -> list[FeatureMap]:
        """The maps of the last `num_outputs` stages.

        images: normalised pixels (B, 3, H, W).
        Returns maps (B, C_i, H_i, W_i) of stride 4, 8, 16 and 32, fine to coarse, with zeros on padding.
        """
        maps = self.body(images.pixels.contiguous()).feature_maps
        mask = PaddingMask.of(images)
        return [_feature_map(values, stride, mask) for values, stride in zip(maps, self.strides, strict=True)]

    def __getstate__(self) -> dict[str, Any]:
        """Without the hooks that `transformers` sets in the first call and that do not pickle; the next call sets them
        anew.
        """
        for module in self.body.modules():
            for key, hook in list(module._forward_hooks.items()):
                if getattr(hook, "__module__", None) == HOOKS:
                    del module._forward_hooks[key]
            if hasattr(module, HOOKED):
                setattr(module, HOOKED, False)
        return super().__getstate__()


def _pretrained(name: str, features: list[str]) -> nn.Module:
    from transformers import AutoBackbone

    place = str(user_path(name)) if name.startswith("~") else name
    try:
        return AutoBackbone.from_pretrained(place, out_features=features)
    except Exception as error:  # of files, the network or the library: they have no class in common
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"backbone.name: expected {PREFIX}<model type, folder or name on the hub>, got '{PREFIX}{name}': {reason}"
        ) from error


def _feature_map(values, stride: int, mask: PaddingMask | None) -> FeatureMap:
    level = mask and PaddingMask(-(-mask.sizes // stride))
    return FeatureMap(zero_padding(values, level), stride, level)


def _model_types() -> set[str]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING_NAMES

    return set(MODEL_FOR_BACKBONE_MAPPING_NAMES)
