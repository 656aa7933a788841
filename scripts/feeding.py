"""Measure how many images a second the loader gives, step by step, and how many workers a training step needs.

python scripts/feeding.py data=coco data.root=<coco> transforms=detr
python scripts/feeding.py data=coco data.root=<coco> transforms=detr batch_size=16 step_ms=100
"""

from omegaconf import DictConfig

from litedetr.cli.compose import as_mapping
from litedetr.cli.script import script
from litedetr.settings import from_mapping
from litedetr.tools.feeding import Feeding, FeedingConfig, measure_feeding


@script("feeding")
def main(cfg: DictConfig) -> None:
    config = from_mapping(FeedingConfig, as_mapping(cfg))
    found = measure_feeding(config)
    print(f"{'step':12}{'ms/image':>10}{'images/s of a process':>24}")
    for step, milliseconds in found.milliseconds.items():
        print(line(step, milliseconds))
    print(line("together", found.together))
    for workers, rate in found.rates.items():
        print(f"data.num_workers={workers}: {rate:.1f} images/s")
    if config.step_ms is not None:
        print(needed(found, config.batch_size, config.step_ms))


def line(step: str, milliseconds: float) -> str:
    return f"{step:12}{milliseconds:10.2f}{1000 / milliseconds:24.0f}"


def needed(found: Feeding, batch_size: int, step_ms: float) -> str:
    wanted = 1000 * batch_size / step_ms
    return (
        f"a step of {step_ms:g} ms with {batch_size} images takes {wanted:.0f} images/s: "
        f"data.num_workers={found.workers_for(wanted)} at {found.rate_per_worker:.1f} images/s each"
    )


if __name__ == "__main__":
    main()
