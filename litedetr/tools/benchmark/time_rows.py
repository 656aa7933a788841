"""What scripts/benchmark.py times or counts: a function for each of its rows, which yields lines and writes files."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from importlib.util import find_spec

import torch

from litedetr.kernels.bench.ceilings import Ceilings
from litedetr.kernels.bench.comparison import Comparison, Row, choose_workloads, measure
from litedetr.models import level_shapes
from litedetr.settings import from_mapping, require
from litedetr.tools.benchmark.benchmark_config import BenchmarkConfig
from litedetr.tools.benchmark.machine import Machine
from litedetr.tools.benchmark.model_plot import draw_models
from litedetr.tools.benchmark.model_rows import ModelRow, headline, model_table, rows_of
from litedetr.tools.benchmark.peers import peer
from litedetr.tools.benchmark.scale import ScaleRow, draw_scale, points, scale_table
from litedetr.tools.benchmark.timed_detectors import Conditions, TimedDetector, of_checkpoint, of_config, of_settings
from litedetr.tools.composition import Compose
from litedetr.tools.flops.tables import Paper
from litedetr.tools.random_batch import RandomBatch
from litedetr.tools.tables import text_line

NUM_LEVELS = 4
KERNEL_COLUMNS = (  # label, field of a Row, format
    ("score", "score", "<18"),
    ("queries", "queries", "<15"),
    ("regime", "regime", "<8"),
    ("dtype", "dtype", "<10"),
    ("run", "run", "<10"),
    ("who", "name", "<15"),
    ("ms", "milliseconds", ">10.3f"),
    ("timed", "timed", ">7"),
    ("x ours", "ratio", ">8.2f"),
    ("limit ms", "limit_ms", ">10.3f"),
    ("share", "limit_share", ">7.2f"),
    ("warm ms", "warm_ms", ">9.3f"),
    ("cold ms", "cold_ms", ">9.3f"),
    ("eager ms", "eager_ms", ">10.3f"),
    ("host us", "host_us", ">9.0f"),
    ("peak MiB", "peak_mib", ">10.0f"),
    ("out err", "out_error", ">9.0e"),
    ("grad err", "grad_error", ">10.0e"),
)
LABELS, FIELDS, FORMS = zip(*KERNEL_COLUMNS, strict=True)
KERNEL_HEADER = text_line(FORMS, LABELS)


def time_models(config: BenchmarkConfig, machine: Machine, compose: Compose) -> Iterator[str]:
    """Whole detectors side by side: is a saving of FLOPs a saving of time? Writes models.csv and models.png."""
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
    yield f"\n{machine.write('models.csv', ModelRow, rows)}"
    yield str(draw_models(rows, machine.facts["device"], machine.output / "models.png"))


def _systems(texts: tuple[str, ...], conditions: Conditions, compose: Compose) -> list[TimedDetector]:
    """texts: settings for conf/flops.yaml of each; a system of the paper's tables gets its name and AP."""
    paper = from_mapping(Paper, compose("paper", ()))
    found = []
    for text in texts:
        row, config = paper.find(text.split()), of_settings(text, "models.systems", compose)
        named = (row.name, row.ap, "the paper's, COCO val2017") if row else (text, None, "")
        found.append(of_config(named[0], config, conditions, *named[1:]))
    return found


def time_kernels(config: BenchmarkConfig, machine: Machine, _: Compose) -> Iterator[str]:
    """The attentions beside their peers, each row as soon as it is known. Writes kernels.csv."""
    kernels, device = config.kernels, machine.device
    ceilings = Ceilings.of(device)
    yield f"\n{ceilings}\n\n{KERNEL_HEADER}"
    dtypes = kernels.dtypes or (("float32",) if device.type == "cpu" else ("bfloat16", "float32"))
    sizes = {name: getattr(kernels, name) for name in ("heads", "channels", "points")}
    sizes |= {"shapes": level_shapes(NUM_LEVELS, config.image_size), "batch": kernels.batch_size}
    chosen = (tuple(getattr(torch, name) for name in dtypes), kernels.scores, kernels.queries, kernels.regimes)
    how = Comparison(device, kernels.passes, kernels.peers, machine.rounds)
    rows = []
    for found in measure(choose_workloads(*chosen, **sizes), how, ceilings):
        if isinstance(found, Row):
            rows.append(found)
        yield kernel_line(found) if isinstance(found, Row) else found
    yield f"\n{machine.write('kernels.csv', Row, rows)}"


def kernel_line(row: Row) -> str:
    return f"{text_line(FORMS, [getattr(row, field) for field in FIELDS])}  {row.note}".rstrip()


def time_scale(config: BenchmarkConfig, machine: Machine, compose: Compose) -> Iterator[str]:
    """One detector over the size of its images, a line for each point at once. Writes scale.csv and scale.png."""
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
            yield f"{point.run}, {point.side}x{point.side}, {point.objects} objects"
    require(len(rows) > 0, "scale.sides", "images that fit into the memory", scale.sides)
    yield f"\n{scale.system}\n{scale_table(rows)}"
    yield f"\n{machine.write('scale.csv', ScaleRow, rows)}"
    title = f"{scale.system}, {scale.precision}; {machine.facts['device']}"
    yield str(draw_scale(rows, title, machine.output / "scale.png"))


def count_instructions(config: BenchmarkConfig, machine: Machine, _: Compose) -> Iterator[str]:
    """Instructions of the kernels beside those of peers. Writes kernel_instructions.csv."""
    require(find_spec("triton") is not None, "rows", "no instructions without Triton, which compiles them", config.rows)
    from litedetr.tools.benchmark.instruction_table import count  # not above: it needs Triton

    yield from count(config, machine.output / "kernel_instructions.csv")


# by the setting `rows`
TIMED = {"models": time_models, "kernels": time_kernels, "scale": time_scale, "instructions": count_instructions}
