"""Pictures of what a detector reads, of how runs went and of what they score. docs/visualize.md shows them."""

from litedetr.engine.plots.attention import draw_attention
from litedetr.engine.plots.config import AttentionPlot, ScorePlot, TrainingPlot
from litedetr.engine.plots.confusion import Confusion, MatchRule, confusion
from litedetr.engine.plots.scores import draw_scores
from litedetr.engine.plots.training import draw_training

__all__ = [
    "AttentionPlot",
    "Confusion",
    "MatchRule",
    "ScorePlot",
    "TrainingPlot",
    "confusion",
    "draw_attention",
    "draw_scores",
    "draw_training",
]
