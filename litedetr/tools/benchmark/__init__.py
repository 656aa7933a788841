"""Whole detectors side by side: is a saving of FLOPs a saving of time?"""

from litedetr.tools.benchmark.alone import alone
from litedetr.tools.benchmark.contestants import Contestant, Setting, of_checkpoint, of_config
from litedetr.tools.benchmark.peers import PEERS, peer
from litedetr.tools.benchmark.plot import draw_models
from litedetr.tools.benchmark.report import ModelRow, headline, model_table, rows_of
from litedetr.tools.benchmark.scale import Point, ScaleConfig, ScaleRow, scale_table
from litedetr.tools.benchmark.scale_plot import draw_scale
