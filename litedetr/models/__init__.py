"""The detector and its parts."""

from litedetr.models.backbones import fold_frozen_norms, load_backbone_weights
from litedetr.models.calls import AttentionCall, attention_calls
from litedetr.models.detector import Detector, build_detector
from litedetr.models.detector_config import Backend, DetectorConfig
from litedetr.models.neck import level_shapes
