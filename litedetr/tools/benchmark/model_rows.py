"""Times of whole detectors as rows, as a table, and in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from litedetr.kernels.bench.cuda_gpu import Step
from litedetr.kernels.bench.timing import Timed, Timing
from litedetr.tools.benchmark.timed_detectors import TimedDetector
from litedetr.tools.random_batch import RandomBatch
from litedetr.tools.tables import text_table

# Times steps by name side by side. graphs: whether the steps may be replayed as CUDA graphs
Clock = Callable[[dict[str, Step], bool], dict[str, Timing]]


@dataclass(frozen=True)
class ModelRow:
    """A detector's forward pass or training step."""

    name: str
    run: str  # which pass: `forward` or `training`
    height: int
    width: int
    batch_size: int
    precision: str
    milliseconds: float  # what ratios compare
    timed: Timed  # what `milliseconds` and `backbone_ms` are: graph replays, if the first detector has them too
    ratio: float | None  # time over that of the first detector
    images_per_second: float
    eager_ms: float  # calls from the host
    graph_ms: float | None  # CUDA graph replays
    host_us: float | None  # microseconds until the host has enqueued a call
    peak_mib: float  # memory of tensors at the highest point, without weights
    backbone_ms: float | None  # of a forward pass
    rest_over_backbone: float | None  # time outside of the backbone over the backbone's
    gflops: float | None  # see TimedDetector
    gflops_ratio: float | None  # over the first detector's
    parameters: float  # see TimedDetector
    ap: float | None  # see TimedDetector
    ap_source: str
    note: str  # why there is no graph


def rows_of(
    detectors: Sequence[TimedDetector], passes: Sequence[str], batch: RandomBatch, clock: Clock
) -> Iterator[ModelRow]:
    """One row for each detector and pass that it has; the first detector is what the others are compared with."""
    for step in passes:
        names = (step, "backbone") if step == "forward" else (step,)
        timed = [{name: x.steps[name] for name in names if name in x.steps} for x in detectors]
        steps = {f"{number} {name}": call for number, x in enumerate(timed) for name, call in x.items()}
        found = clock(steps, step == "forward")
        for number, detector in enumerate(detectors):
            if step in detector.steps:
                timings = (found[f"{number} {step}"], found.get(f"0 {step}"), found.get(f"{number} backbone"))
                yield _row(step, detector, detectors[0], timings, batch)


def _row(
    step: str,
    detector: TimedDetector,
    first: TimedDetector,
    timings: tuple[Timing, Timing | None, Timing | None],
    batch: RandomBatch,
) -> ModelRow:
    """timings: of the pass, of the first detector's, of the backbone."""
    timing, base, backbone = timings
    timed = "graph" if all(x.warm_ms is not None for x in timings if x is not None) else "eager"
    time, backbone_ms = timing.by(timed), backbone and backbone.by(timed)
    known = detector.gflops is not None and first.gflops is not None
    return ModelRow(
        name=detector.name,
        run=step,
        height=batch.image_size[0],
        width=batch.image_size[1],
        batch_size=batch.batch_size,
        precision=batch.precision,
        milliseconds=time,
        timed=timed,
        ratio=base and time / base.by(timed),
        images_per_second=batch.batch_size * 1e3 / time,
        eager_ms=timing.eager_ms,
        graph_ms=timing.warm_ms,
        host_us=timing.host_us,
        peak_mib=timing.peak_mib,
        backbone_ms=backbone_ms,
        rest_over_backbone=backbone_ms and (time - backbone_ms) / backbone_ms,
        gflops=detector.gflops,
        gflops_ratio=detector.gflops / first.gflops if known else None,
        parameters=detector.parameters,
        ap=detector.ap,
        ap_source=detector.ap_source,
        note=timing.note,
    )


COLUMNS = (  # label, field, format
    ("run", "run", "<9"),
    ("ms", "milliseconds", ">10.1f"),
    ("timed", "timed", ">7"),
    ("x first", "ratio", ">9.2f"),
    ("GFLOPs", "gflops", ">8.1f"),
    ("x first", "gflops_ratio", ">9.2f"),
    ("backbone ms", "backbone_ms", ">13.1f"),
    ("rest/backbone", "rest_over_backbone", ">15.2f"),
    ("eager ms", "eager_ms", ">10.1f"),
    ("graph ms", "graph_ms", ">10.1f"),
    ("host us", "host_us", ">9.0f"),
    ("images/s", "images_per_second", ">10.2f"),
    ("peak MiB", "peak_mib", ">10.0f"),
    ("params M", "parameters", ">10.1f"),
    ("AP", "ap", ">7.3g"),
)


def model_table(rows: Sequence[ModelRow]) -> str:
    """A line for each row; a dash where a figure does not apply."""
    names = max(len(row.name) for row in rows) + 2
    columns = [("", f"<{names}"), *((label, form) for label, _, form in COLUMNS)]
    table = text_table(columns, [[row.name, *(getattr(row, field) for _, field, _ in COLUMNS)] for row in rows])
    return "\n".join([table, *(f"{row.name}, {row.run}: {row.note}" for row in rows if row.note)])


def headline(rows: Sequence[ModelRow]) -> list[str]:
    """Of every detector but the first: is the FLOPs saving a time saving?"""
    lines = []
    for row in rows:
        if row.name != rows[0].name and row.ratio is not None:
            flops = "" if row.gflops_ratio is None else f" for {row.gflops_ratio:.2f} times the FLOPs"
            lines.append(f"{row.run}: {row.name} takes {row.ratio:.2f} times the time of {rows[0].name}{flops}")
    outside = "outside its backbone {0.name} takes {0.rest_over_backbone:.2f} times the backbone's time"
    return lines + [outside.format(row) for row in rows if row.rest_over_backbone is not None]
