"""Backbones: images in, a list of FeatureMaps out, high resolution first."""

from litedetr.models.backbones.build import build_backbone
from litedetr.models.backbones.folding import fold_frozen_norms
from litedetr.models.backbones.padding import FeatureMap, PaddingMask
from litedetr.models.backbones.weights import load_backbone_weights
