"""Backbones: images in, a list of FeatureMaps out, high resolution first."""

from litedetr.models.backbones.build import build_backbone
from litedetr.models.backbones.padding import FeatureMap, PaddingMask
from litedetr.models.backbones.weights import load_backbone_weights

__all__ = ["FeatureMap", "PaddingMask", "build_backbone", "load_backbone_weights"]
