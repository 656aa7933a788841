"""Whole detectors side by side: is a saving of FLOPs a saving of time?"""

from litedetr.engine.benchmark.contestants import Contestant, Setting, of_checkpoint, of_config
from litedetr.engine.benchmark.peers import PEERS, peer
from litedetr.engine.benchmark.plot import draw_models
from litedetr.engine.benchmark.report import ModelRow, headline, model_table, rows_of

__all__ = [
    "PEERS",
    "Contestant",
    "ModelRow",
    "Setting",
    "draw_models",
    "headline",
    "model_table",
    "of_checkpoint",
    "of_config",
    "peer",
    "rows_of",
]
