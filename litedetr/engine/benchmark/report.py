"""Times of whole detectors as rows, as a table, and as the answer in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from litedetr.engine.benchmark.contestants import Contestant, Setting, Step

MILLISECONDS, MIB = 0, 1  # of what a clock returns
# Times steps by name side by side: name -> (median milliseconds, peak MiB of tensors on top of what was there)
Clock = Callable[[dict[str, Step]], Mapping[str, tuple[float, float]]]


@dataclass(frozen=True)
class ModelRow:
    """run: `forward` or `training`. ratio: time over that of the first detector. gflops_ratio: the same of FLOPs.

    backbone_ms: of a forward pass. rest_over_backbone: time outside of the backbone over the backbone's.
    peak_mib: memory of tensors at the highest point, without weights. gflops, parameters, ap: see Contestant.
    """

    name: str
    run: str
    height: int
    width: int
    batch_size: int
    precision: str
    milliseconds: float
    ratio: float | None
    images_per_second: float
    peak_mib: float
    backbone_ms: float | None
    rest_over_backbone: float | None
    gflops: float | None
    gflops_ratio: float | None
    parameters: float
    ap: float | None
    ap_source: str


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
        found = clock(steps)
        for number, contestant in enumerate(contestants):
            if run in contestant.steps:
                yield _row(number, contestant, run, found, contestants[0], setting)


def _row(
    number: int,
    contestant: Contestant,
    run: str,
    found: Mapping[str, tuple[float, float]],
    first: Contestant,
    setting: Setting,
) -> ModelRow:
    time, peak = found[f"{number} {run}"]
    base = found[f"0 {run}"][MILLISECONDS] if f"0 {run}" in found else None
    backbone = found[f"{number} backbone"][MILLISECONDS] if run == "forward" else None
    known = contestant.gflops is not None and first.gflops is not None
    return ModelRow(
        name=contestant.name,
        run=run,
        height=setting.image_size[0],
        width=setting.image_size[1],
        batch_size=setting.batch_size,
        precision=setting.precision,
        milliseconds=time,
        ratio=base and time / base,
        images_per_second=setting.batch_size * 1e3 / time,
        peak_mib=peak,
        backbone_ms=backbone,
        rest_over_backbone=backbone and (time - backbone) / backbone,
        gflops=contestant.gflops,
        gflops_ratio=contestant.gflops / first.gflops if known else None,
        parameters=contestant.parameters,
        ap=contestant.ap,
        ap_source=contestant.ap_source,
    )


COLUMNS = (
    ("ms", "milliseconds", ".1f", 10),
    ("x first", "ratio", ".2f", 9),
    ("GFLOPs", "gflops", ".1f", 8),
    ("x first", "gflops_ratio", ".2f", 9),
    ("backbone ms", "backbone_ms", ".1f", 13),
    ("rest/backbone", "rest_over_backbone", ".2f", 15),
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
    return "\n".join(lines)


def _cell(value: float | None, form: str, width: int) -> str:
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
