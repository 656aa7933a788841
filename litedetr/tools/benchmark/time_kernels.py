"""The attentions beside their peers."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from litedetr.kernels.bench.ceilings import Ceilings
from litedetr.kernels.bench.comparison import HEADER, Comparison, Row, choose_workloads, line, measure
from litedetr.models import level_shapes
from litedetr.paths import user_path
from litedetr.tools.benchmark.benchmark_config import BenchmarkConfig
from litedetr.tools.benchmark.machine import Machine
from litedetr.tools.composition import Compose

NUM_LEVELS = 4


def time_kernels(config: BenchmarkConfig, machine: Machine, _: Compose) -> Iterator[str]:
    """What to print, each row as soon as it is known. Writes kernels.csv."""
    kernels, device = config.kernels, machine.device
    ceilings = Ceilings.of(device)
    yield f"\n{ceilings}\n\n{HEADER}"
    dtypes = kernels.dtypes or (("float32",) if device.type == "cpu" else ("bfloat16", "float32"))
    sizes = {name: getattr(kernels, name) for name in ("heads", "channels", "points")}
    sizes |= {"shapes": level_shapes(NUM_LEVELS, config.image_size), "batch": kernels.batch_size}
    chosen = (tuple(getattr(torch, name) for name in dtypes), kernels.scores, kernels.queries, kernels.regimes)
    how = Comparison(device, kernels.passes, kernels.peers, machine.rounds)
    rows = []
    for found in measure(choose_workloads(*chosen, **sizes), how, ceilings):
        if isinstance(found, Row):
            rows.append(found)
            yield line(found)
        else:
            yield found
    yield f"\n{machine.write(user_path(config.output) / 'kernels.csv', Row, rows)}"
