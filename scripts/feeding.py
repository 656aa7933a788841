"""Measure how many images a second the loader gives, step by step, and how many workers a training step needs.

python scripts/feeding.py data=coco data.root=<coco> transforms=detr
python scripts/feeding.py data=coco data.root=<coco> transforms=detr batch_size=16 step_ms=100
"""

from omegaconf import DictConfig

from litedetr.cli.compose import as_mapping
from litedetr.cli.script import script
from litedetr.settings import from_mapping
from litedetr.tools.feeding import FeedingConfig, measure_feeding


@script("feeding")
def main(cfg: DictConfig) -> None:
    config = from_mapping(FeedingConfig, as_mapping(cfg))
    for line in measure_feeding(config).lines(config):
        print(line)


if __name__ == "__main__":
    main()
