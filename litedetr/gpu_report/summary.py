"""The answers of a report, before its figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from litedetr.gpu_report.plan import Row
from litedetr.gpu_report.rows import KIND
from litedetr.gpu_report.tables import cell, markdown

Steps = dict[str, list[Row]]  # rows by the step's name
OURS = "ours"
WORKLOAD = ("score", "queries", "regime", "dtype", "run")  # tells one measured attention from another
ATTENTION = (
    "Microseconds of ours, how much of that moving the bytes takes at least, and the time of each peer over ours."
)
DETECTORS = (
    "Milliseconds from images to predictions: called as usual, and replayed from a graph; the ratio is to the first "
    "system of the same batch and precision."
)


def summary(steps: Steps) -> list[str]:
    """Paragraphs and tables, of the steps that have told something."""
    sections = {"Attentions": _attention, "Detectors": _detectors}
    return [part for name, make in sections.items() for part in understood(name, make, steps)] + _lines(steps)


def understood(name: str, make: Callable[..., Iterable[str]], *arguments: object) -> list[str]:
    """What `make` says of rows; a remark where they are not as this version of the project writes them. Another may
    have told them, and the rest of the page does not fall with them.
    """
    try:
        return list(make(*arguments))
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        return [f"{name}: left out, as its rows are not those of this version: {type(error).__name__} {error}"]


def of_kind(steps: Steps, step: str, kind: str) -> list[Row]:
    return [row for row in steps.get(step, ()) if row[KIND] == kind]


def card_name(steps: Steps) -> str | None:
    cards = of_kind(steps, "machine", "card")
    return cards[-1].get("name") if cards else None


def grouped(rows: Iterable[Row], names: Sequence[str]) -> list[list[Row]]:
    """Rows that agree in `names`, in the order in which they came."""
    found: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in names), []).append(row)
    return list(found.values())


def _attention(steps: Steps) -> Iterator[str]:
    rows = of_kind(steps, "attention", "attention")
    if not rows:
        return
    peers = [name for name in dict.fromkeys(row["name"] for row in rows) if name != OURS]
    yield "## Attentions"
    yield ATTENTION
    lines = [_attention_line(found, peers) for found in grouped(rows, WORKLOAD)]
    yield markdown((*WORKLOAD, "ours", "of the limit", *peers), lines)


def _attention_line(rows: Sequence[Row], peers: Sequence[str]) -> list[object]:
    by_name = {row["name"]: row for row in rows}
    ours = by_name.get(OURS)
    times = (ours["milliseconds"] * 1e3, f"{ours['limit_share']:.0%}") if ours else (None, None)
    ratios = [by_name[name]["ratio"] if name in by_name else None for name in peers]
    return [*(rows[0][name] for name in WORKLOAD), *times, *ratios]


def _detectors(steps: Steps) -> Iterator[str]:
    rows = of_kind(steps, "detectors", "detectors")
    if not rows:
        return
    yield "## Detectors"
    yield DETECTORS
    head = ("system", "batch", "precision", "eager ms", "x first", "graph ms", "x first", "images/s by graph")
    yield markdown(head, [line for found in grouped(rows, ("batch", "precision")) for line in _detector_lines(found)])


def _detector_lines(rows: Sequence[Row]) -> Iterator[list[object]]:
    first = rows[0]
    for row in rows:
        times = [x for name in ("eager_ms", "graph_ms") for x in (row[name], _over(row[name], first[name]))]
        rate = row["graph_ms"] and row["batch"] * 1e3 / row["graph_ms"]
        yield [row["system"], row["batch"], row["precision"], *times, rate]


def _over(time: float | None, first: float | None) -> float | None:
    return time / first if time and first else None


def _lines(steps: Steps) -> list[str]:
    """What one sentence says."""
    sentences = {"Host time": _of_host, "Training": _of_training, "Tests": _of_tests}
    found = [line for name, make in sentences.items() for line in understood(name, make, steps)]
    return ["## Beside them", "\n".join(f"- {line}" for line in found)] if found else []


def _of_host(steps: Steps) -> Iterator[str]:
    for row in of_kind(steps, "host", "host"):
        if row["host_us"] is not None:
            yield f"The host works {cell(row['host_us'])} us at a call: {row['score']}, {row['pass']}."


def _of_training(steps: Steps) -> Iterator[str]:
    waits = of_kind(steps, "step", "waits")
    for row in of_kind(steps, "step", "training step"):
        times = sum(wait["times"] for wait in waits if wait["batch"] == row["batch"])
        speed = f"{cell(row['ms'])} ms, {cell(row['images_per_s'])} images/s, {cell(row['peak_mib'])} MiB"
        yield f"A training step of {row['system']}, batch {row['batch']}, {row['precision']}: {speed}; {times} waits."
    evaluations = of_kind(steps, "training", "evaluations")
    if evaluations:
        last = evaluations[-1]
        yield f"The default run: AP {cell(last['AP'])} after epoch {last['epoch']}, {cell(last['seconds'])} s."


def _of_tests(steps: Steps) -> Iterator[str]:
    counts = of_kind(steps, "suite", "tests")
    if counts:
        last = counts[-1]
        ended = "" if "exit_code" in last else ", cut short"
        yield f"The kernels' tests: {last['passed']} passed, {last['failed']} failed, {last['skipped']} skipped{ended}."
