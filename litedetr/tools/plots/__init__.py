"""Pictures of what a detector reads, of how runs went and of what they score. docs/visualize.md shows them."""

from litedetr.tools.plots.attention import draw_attention
from litedetr.tools.plots.confusion import Confusion, MatchRule, confusion
from litedetr.tools.plots.plot_config import AttentionPlot, ScorePlot, TrainingPlot
from litedetr.tools.plots.score_figures import draw_scores
from litedetr.tools.plots.training import draw_training

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
