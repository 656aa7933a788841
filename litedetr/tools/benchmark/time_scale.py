"""One detector over the side of an image and over the objects in it: what grows, and how fast?"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from functools import partial

import torch

from litedetr.paths import user_path
from litedetr.settings import require
from litedetr.tools.benchmark.benchmark_config import BenchmarkConfig
from litedetr.tools.benchmark.machine import Machine
from litedetr.tools.benchmark.scale_plot import draw_scale
from litedetr.tools.benchmark.scale_rows import ScaleRow, points, scale_table
from litedetr.tools.benchmark.timed_detectors import of_settings
from litedetr.tools.composition import Compose


def time_scale(config: BenchmarkConfig, machine: Machine, compose: Compose) -> Iterator[str]:
    """What to print, a line for each point as soon as it is known. Writes scale.csv and scale.png."""
    scale = config.scale
    detector = of_settings(scale.system, "scale.system", compose)
    rows = []
    for point in points(scale):
        try:
            measured = machine.clock_memory(partial(point.make_step, detector, scale, machine.device))
        except (BrokenProcessPool, torch.OutOfMemoryError):
            yield f"{point}: out of memory, or killed"
        else:
            rows.append(ScaleRow.of(point, detector, scale.num_classes, measured))
            yield f"{point.part}, {point.side}x{point.side}, {point.num_objects} objects"
    require(len(rows) > 0, "scale.sides", "images that fit into the memory", scale.sides)
    yield f"\n{scale.system}\n{scale_table(rows)}"
    folder = user_path(config.output)
    yield f"\n{machine.write(folder / 'scale.csv', ScaleRow, rows)}"
    title = f"{scale.system}, {scale.precision}; {machine.facts['device']}"
    yield str(draw_scale(rows, title, folder / "scale.png"))
