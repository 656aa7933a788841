"""Whole detectors side by side: is a saving of FLOPs a saving of time?"""

from __future__ import annotations

from collections.abc import Iterator

from litedetr.paths import user_path
from litedetr.settings import from_mapping, require
from litedetr.tools.benchmark.benchmark_config import BenchmarkConfig
from litedetr.tools.benchmark.machine import Machine
from litedetr.tools.benchmark.model_plot import draw_models
from litedetr.tools.benchmark.model_rows import ModelRow, headline, model_table, rows_of
from litedetr.tools.benchmark.peers import peer
from litedetr.tools.benchmark.timed_detectors import Conditions, TimedDetector, of_checkpoint, of_config, of_settings
from litedetr.tools.composition import Compose
from litedetr.tools.flops.paper_tables import Paper
from litedetr.tools.random_batch import RandomBatch


def time_models(config: BenchmarkConfig, machine: Machine, compose: Compose) -> Iterator[str]:
    """What to print. Writes models.csv and models.png."""
    models = config.models
    sizes = (config.image_size, models.batch_size, models.num_objects, models.num_classes)
    conditions = Conditions(RandomBatch(*sizes, models.precision), machine.device)
    detectors = _systems(models.systems, conditions, compose)
    detectors += [of_checkpoint(path, conditions) for path in models.checkpoints]
    detectors += [peer(name, conditions) for name in models.peers]
    require(len(detectors) > 0, "models.systems", "at least one system, checkpoint or peer", models.systems)
    rows = list(rows_of(detectors, models.passes, conditions.batch, machine.clock))
    yield f"\n{model_table(rows)}\n"
    yield from headline(rows)
    folder = user_path(config.output)
    yield f"\n{machine.write(folder / 'models.csv', ModelRow, rows)}"
    yield str(draw_models(rows, machine.facts["device"], folder / "models.png"))


def _systems(texts: tuple[str, ...], conditions: Conditions, compose: Compose) -> list[TimedDetector]:
    """texts: settings for conf/flops.yaml of each; a system of the paper's tables gets its name and AP."""
    paper = from_mapping(Paper, compose("paper", ()))
    found = []
    for text in texts:
        row, config = paper.find(text.split()), of_settings(text, "models.systems", compose)
        named = (row.name, row.ap, "the paper's, COCO val2017") if row else (text, None, "")
        found.append(of_config(named[0], config, conditions, *named[1:]))
    return found
