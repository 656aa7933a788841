"""The summary of a report, above its figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from litedetr.tools.gpu_report.markdown_tables import cell, markdown
from litedetr.tools.gpu_report.plan import Row
from litedetr.tools.gpu_report.rows_file import KIND, OUTCOME

Steps = dict[str, list[Row]]  # rows by the step's name
OURS = "ours"
WORKLOAD = ("score", "queries", "regime")  # tells one measured attention of a precision and pass from another
PASSES = {"forward": "forward pass", "training": "forward and backward pass"}
ATTENTION = (
    "`ours us`: microseconds of our kernel in replays of a CUDA graph, with warm caches. `cold us`: the same with the "
    "L2 cache overwritten before each call. (Without a graph, as on a CPU, `ours us` is of eager calls and there is no "
    "cold time.) `limit`: the least time that moving the bytes takes, as a share of `cold us` if there is one, else of "
    "`ours us`. `... / ours`: a peer's time over ours, measured beside it; above 1 ours is faster. A dash: not "
    "measured, or the peer cannot take the call."
)
ATTENTION_WORDS = (
    "Scores: `logits` is deformable attention; `shared` is key-aware attention whose keys are its values; `own` has "
    "keys of its own. Queries, with their number: cells of the levels S3 to S1 (`high`), of S4 (`low`), of all four "
    "(`all`), or boxes (`decoder`). Regimes: cells in order (`grid`), or scattered places (`random`). Peers: `unfused` "
    "is the published formulation in PyTorch, `reference` a plain one, `compiled` the reference through torch.compile, "
    "`deformops` another library of kernels, `deformops_fp32` the same with gradients added in fp32."
)
DETECTORS = (
    "Milliseconds of a batch, from images of {image} pixels to detections: `eager`, called as usual, and `graph`, "
    "replayed from a CUDA graph. `/ first`: over the first system of the same batch and precision; below 1 is faster "
    "than it."
)


def summary(steps: Steps) -> list[str]:
    """Paragraphs and tables, of the steps that have rows."""
    sections = {"Detectors": _detectors, "Attentions": _attention}
    return _lines(steps) + [part for name, make in sections.items() for part in understood(name, make, steps)]


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


def by_workload(rows: Iterable[Row]) -> list[list[Row]]:
    """The rows of each attention, sorted by what was measured."""
    return sorted(grouped(rows, WORKLOAD), key=lambda found: [found[0][name] for name in WORKLOAD])


def _attention(steps: Steps) -> Iterator[str]:
    rows = of_kind(steps, "attention", "attention")
    if not rows:
        return
    yield from ("## Attentions", ATTENTION, ATTENTION_WORDS)
    for found in grouped(rows, ("dtype", "run")):
        peers = [name for name in dict.fromkeys(row["name"] for row in found) if name != OURS]
        yield f"**{found[0]['dtype']}, {PASSES[found[0]['run']]}**"
        head = (*WORKLOAD, "ours us", "cold us", "limit", *(f"{name} / ours" for name in peers))
        yield markdown(head, [_attention_line(group, peers) for group in by_workload(found)])


def _attention_line(rows: Sequence[Row], peers: Sequence[str]) -> list[object]:
    by_name = {row["name"]: row for row in reversed(rows)}  # what was measured twice: the first time
    ours = by_name.get(OURS)
    times = (_us(ours["milliseconds"]), _us(ours["cold_ms"]), f"{ours['limit_share']:.0%}") if ours else (None,) * 3
    ratios = [by_name[name]["ratio"] if name in by_name else None for name in peers]
    return [*(rows[0][name] for name in WORKLOAD), *times, *ratios]


def _us(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds * 1e3


def _detectors(steps: Steps) -> Iterator[str]:
    rows = of_kind(steps, "detectors", "detectors")
    if not rows:
        return
    yield "## Detectors"
    yield DETECTORS.format(image=rows[0]["image"])
    head = ("system", "batch", "precision", "eager ms", "eager / first", "graph ms", "graph / first", "graph images/s")
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
    """What one sentence says, failures first."""
    sentences = {"Failures": _of_failures, "Tests": _of_tests, "Training": _of_training, "Host time": _of_host}
    found = [line for name, make in sentences.items() for line in understood(name, make, steps)]
    return ["## In short", "\n".join(f"- {line}" for line in found)] if found else []


def _of_failures(steps: Steps) -> Iterator[str]:
    for step in steps:
        for row in of_kind(steps, step, OUTCOME)[-1:]:
            if row["status"] in ("failed", "timed out"):
                yield f"The step `{step}` {row['status']}: {cell(row['reason'])}. Its output: logs/{step}.txt."
    for row in of_kind(steps, "suite", "failed test"):
        yield f"Failed test: {cell(row['test'])}."


def _of_host(steps: Steps) -> Iterator[str]:
    rows = [row for row in of_kind(steps, "host", "host") if row["host_us"] is not None]
    for found in grouped(rows, ("pass",)):
        times = ", ".join(f"{row['score']} {cell(row['host_us'])} us" for row in found)
        yield f"Host time of one call of an attention, {found[0]['pass']}: {times}."


def _of_training(steps: Steps) -> Iterator[str]:
    waits = of_kind(steps, "step", "waits")
    for row in of_kind(steps, "step", "training step"):
        times = sum(wait["times"] for wait in waits if wait["batch"] == row["batch"])
        speed = f"{cell(row['ms'])} ms, {cell(row['images_per_s'])} images/s, {cell(row['peak_mib'])} MiB"
        what = f"{row['system']}, batch {row['batch']}, {row['precision']}"
        yield f"A training step of {what}: {speed}; the host waits {times} times for the GPU."
    evaluations = of_kind(steps, "training", "evaluations")
    if evaluations:
        last = evaluations[-1]
        reached = f"AP {cell(last['AP'])} after epoch {last['epoch']}, {cell(last['seconds'])} s"
        yield f"The default run (the README's first command): {reached}."


def _of_tests(steps: Steps) -> Iterator[str]:
    counts = of_kind(steps, "suite", "tests")
    if counts:
        last = counts[-1]
        ended = "" if "exit_code" in last else ", cut short"
        yield f"The kernels' tests: {last['passed']} passed, {last['failed']} failed, {last['skipped']} skipped{ended}."
