"""Pictures of a detector and of its runs, written as PNG with their numbers beside them; docs/visualize.md shows them.

python scripts/visualize.py draw=attention checkpoint=runs/foo image=photo.jpg                # of the best detection
python scripts/visualize.py draw=attention checkpoint=runs/foo image=photo.jpg point=[40,60]  # of a point
python scripts/visualize.py draw=training runs=[runs/foo,runs/bar]
python scripts/visualize.py draw=scores checkpoint=runs/foo
"""

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from litedetr.cli.compose import as_mapping
from litedetr.cli.script import script
from litedetr.engine.distributed import use_all_cores
from litedetr.settings import from_mapping, require
from litedetr.tools.plots.draw_attention import draw_attention
from litedetr.tools.plots.draw_scores import draw_scores
from litedetr.tools.plots.draw_training import draw_training
from litedetr.tools.plots.plot_config import AttentionPlot, ScorePlot, TrainingPlot

DRAWINGS = {
    "attention": (AttentionPlot, draw_attention),
    "training": (TrainingPlot, draw_training),
    "scores": (ScorePlot, draw_scores),
}


@script("visualize")
def main(cfg: DictConfig) -> None:
    use_all_cores()
    choice = HydraConfig.get().runtime.choices["draw"]
    require(choice in DRAWINGS, "draw", f"one of {', '.join(DRAWINGS)}", choice)
    settings, draw = DRAWINGS[choice]
    for path in draw(from_mapping(settings, as_mapping(cfg))):
        print(path)


if __name__ == "__main__":
    main()
