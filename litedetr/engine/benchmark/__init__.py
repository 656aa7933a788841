"""Whole detectors side by side: is a saving of FLOPs a saving of time?"""

from litedetr.engine.benchmark.alone import alone
from litedetr.engine.benchmark.contestants import Contestant, Setting, of_checkpoint, of_config
from litedetr.engine.benchmark.peers import PEERS, peer
from litedetr.engine.benchmark.plot import draw_models
from litedetr.engine.benchmark.report import ModelRow, headline, model_table, rows_of
from litedetr.engine.benchmark.scale import Point, ScaleConfig, ScaleRow, scale_table
from litedetr.engine.benchmark.scale_plot import draw_scale

__all__ = [
    "PEERS",
    "Contestant",
    "ModelRow",
    "Point",
    "ScaleConfig",
    "ScaleRow",
    "Setting",
    "alone",
    "draw_models",
    "draw_scale",
    "headline",
    "model_table",
    "of_checkpoint",
    "of_config",
    "peer",
    "rows_of",
    "scale_table",
]
