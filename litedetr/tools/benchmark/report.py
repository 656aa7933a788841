"""Times of whole detectors as rows, as a table, and as the answer in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from litedetr.tools.benchmark.contestants import Contestant, Setting, Step

Timed = Literal["graph", "eager"]


class Timing(Protocol):
    """What a clock says of a step; the figures of replays are None on a CPU and of what no graph can hold."""

    eager_ms: float  # of calls from the host
    peak_mib: float  # memory of tensors on top of what was there
    warm_ms: float | None  # of CUDA graph replays
    host_us: float | None  # microseconds until the host has enqueued a call
    note: str  # why there is no graph

    def by(self, timed: Timed) -> float:
        """Milliseconds of one kind."""


# Times steps by name side by side. graphs: whether the steps may be replayed as CUDA graphs
Clock = Callable[[dict[str, Step], bool], Mapping[str, Timing]]


@dataclass(frozen=True)
class ModelRow:
    """A detector's forward pass or training step."""

    name: str
    run: str  # `forward` or `training`
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
    gflops: float | None  # see Contestant
    gflops_ratio: float | None  # over the first detector's
    parameters: float  # see Contestant
    ap: float | None  # see Contestant
    ap_source: str
    note: str  # why there is no graph


def rows_of(
    contestants: Sequence[Contestant], runs: Sequence[str], setting: Setting, clock: Clock
) -> Iterator[ModelRow]:
    """One row for each detector and run that it has; the first detector is what the others are compared with."""
    for run in runs:
        names = (run, "backbone") if run == "forward" else (run,)
        steps = {
            f"{number} {name}": contestant.steps[name]
            for number, contestant in enumerate(contestants)
            for name in names
            if name in contestant.steps
        }
        found = clock(steps, run == "forward")
        for number, contestant in enumerate(contestants):
            if run in contestant.steps:
                yield _row(number, contestant, run, found, contestants[0], setting)


def _row(
    number: int,
    contestant: Contestant,
    run: str,
    found: Mapping[str, Timing],
    first: Contestant,
    setting: Setting,
) -> ModelRow:
    timing, base = found[f"{number} {run}"], found.get(f"0 {run}")
    backbone = found[f"{number} backbone"] if run == "forward" else None
    together = [x for x in (timing, base, backbone) if x is not None]
    timed = "graph" if all(x.warm_ms is not None for x in together) else "eager"
    time = timing.by(timed)
    backbone_ms = backbone and backbone.by(timed)
    known = contestant.gflops is not None and first.gflops is not None
    return ModelRow(
        name=contestant.name,
        run=run,
        height=setting.image_size[0],
        width=setting.image_size[1],
        batch_size=setting.batch_size,
        precision=setting.precision,
        milliseconds=time,
        timed=timed,
        ratio=base and time / base.by(timed),
        images_per_second=setting.batch_size * 1e3 / time,
        eager_ms=timing.eager_ms,
        graph_ms=timing.warm_ms,
        host_us=timing.host_us,
        peak_mib=timing.peak_mib,
        backbone_ms=backbone_ms,
        rest_over_backbone=backbone_ms and (time - backbone_ms) / backbone_ms,
        gflops=contestant.gflops,
        gflops_ratio=contestant.gflops / first.gflops if known else None,
        parameters=contestant.parameters,
        ap=contestant.ap,
        ap_source=contestant.ap_source,
        note=timing.note,
    )


COLUMNS = (
    ("ms", "milliseconds", ".1f", 10),
    ("timed", "timed", "", 7),
    ("x first", "ratio", ".2f", 9),
    ("GFLOPs", "gflops", ".1f", 8),
    ("x first", "gflops_ratio", ".2f", 9),
    ("backbone ms", "backbone_ms", ".1f", 13),
    ("rest/backbone", "rest_over_backbone", ".2f", 15),
    ("eager ms", "eager_ms", ".1f", 10),
    ("graph ms", "graph_ms", ".1f", 10),
    ("host us", "host_us", ".0f", 9),
    ("images/s", "images_per_second", ".2f", 10),
    ("peak MiB", "peak_mib", ".0f", 10),
    ("params M", "parameters", ".1f", 10),
    ("AP", "ap", ".3g", 7),
)


def model_table(rows: Sequence[ModelRow]) -> str:
    """A line for each row; a dash where a figure does not apply."""
    names = max(len(row.name) for row in rows)
    lines = [f"{'':{names}}  {'run':9}" + "".join(f"{label:>{width}}" for label, _, _, width in COLUMNS)]
    for row in rows:
        cells = (_cell(getattr(row, field), form, width) for _, field, form, width in COLUMNS)
        lines.append(f"{row.name:{names}}  {row.run:9}" + "".join(cells))
    lines += [f"{row.name}, {row.run}: {row.note}" for row in rows if row.note]
    return "\n".join(lines)


def _cell(value: float | str | None, form: str, width: int) -> str:
    return f"{'-' if value is None else format(value, form):>{width}}"


def headline(rows: Sequence[ModelRow]) -> list[str]:
    """Of every detector but the first: is the FLOPs saving a time saving?"""
    first = rows[0]
    lines = []
    for row in rows:
        if row.name == first.name or row.ratio is None:
            continue
        flops = "" if row.gflops_ratio is None else f" for {row.gflops_ratio:.2f} times the FLOPs"
        lines.append(f"{row.run}: {row.name} takes {row.ratio:.2f} times the time of {first.name}{flops}")
    outside = [row for row in rows if row.rest_over_backbone is not None]
    lines += [
        f"outside its backbone {row.name} takes {row.rest_over_backbone:.2f} times the backbone's time"
        for row in outside
    ]
    return lines
