"""Rows of the kernels' benchmark: an attention beside its peers, checked against the reference before it is timed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from kernels.check import PEER_TOLERANCE, TOLERANCE, reference_results, worst_error
from kernels.inputs import Inputs
from kernels.interface import attend
from kernels.measure import Ceilings, Step, floor_milliseconds, forward_step, side_by_side, training_step
from kernels.peers import PEERS, Attend, obstacle
from kernels.workloads import Workload

OURS = "ours"


@dataclass(frozen=True)
class Run:
    """How to measure. passes: `forward`, `training` (with backward). rounds: turns on a CPU, ms of each on a GPU."""

    device: torch.device
    passes: tuple[str, ...]
    peers: tuple[str, ...]
    rounds: int


@dataclass(frozen=True)
class Row:
    """One measurement. ratio: the peer's time over ours. limit_ms: what moving the bytes takes at least."""

    score: str
    queries: str
    regime: str
    dtype: str
    run: str
    name: str
    milliseconds: float
    ratio: float
    limit_ms: float
    peak_mib: float
    error: float


HEADER = (
    f"{'score':8}{'queries':15}{'regime':8}{'dtype':10}{'run':10}{'who':11}"
    f"{'ms':>10}{'x ours':>8}{'limit ms':>10}{'peak MiB':>10}{'error':>9}"
)


def line(row: Row) -> str:
    return (
        f"{row.score:8}{row.queries:15}{row.regime:8}{row.dtype:10}{row.run:10}{row.name:11}"
        f"{row.milliseconds:10.3f}{row.ratio:8.2f}{row.limit_ms:10.3f}{row.peak_mib:10.0f}{row.error:9.0e}"
    )


def measure(workloads: list[tuple[str, Workload]], run: Run, ceilings: Ceilings) -> Iterator[Row | str]:
    """Rows of ours and of every peer that can take the calls; a line of text where one is wrong and so not timed.

    workloads: each with the name of its queries.
    """
    for label, workload in workloads:
        inputs = workload.inputs(run.device)
        grad_out = torch.randn(inputs.points.offsets.shape[:3] + inputs.value.shape[3:])
        grad_out = grad_out.to(run.device, workload.dtype)
        found = _errors(inputs, grad_out, run.peers)
        limits = {name: TOLERANCE[workload.dtype] if name == OURS else PEER_TOLERANCE for name in found}
        for name, error in found.items():
            if error > limits[name]:
                yield f"{name} is off by {error:.1e} (relative RMS) on {label} {workload.regime}: not timed"
        right = {name: error for name, error in found.items() if error <= limits[name]}
        for passes in run.passes:
            yield from _rows(label, workload, passes, _steps(right, passes, inputs, grad_out), right, run, ceilings)


def _errors(inputs: Inputs, grad_out: Tensor, peers: tuple[str, ...]) -> dict[str, float]:
    """The worst relative RMS of outputs and gradients, of ours and of each peer that can take the call."""
    expected = reference_results(inputs, grad_out)
    names = [OURS, *(name for name in peers if obstacle(name, inputs) is None)]
    return {name: worst_error(training_step(_attend(name), inputs, grad_out.flatten(2))(), expected) for name in names}


def _attend(name: str) -> Attend:
    return attend if name == OURS else PEERS[name]


def _steps(names: dict[str, float], passes: str, inputs: Inputs, grad_out: Tensor) -> dict[str, Step]:
    if passes == "training":
        return {name: training_step(_attend(name), inputs, grad_out.flatten(2)) for name in names}
    return {name: forward_step(_attend(name), inputs) for name in names}


def _rows(
    label: str,
    workload: Workload,
    passes: str,
    steps: dict[str, Step],
    errors: dict[str, float],
    run: Run,
    ceilings: Ceilings,
) -> Iterator[Row]:
    found = side_by_side(steps, run.device, run.rounds)
    limit = floor_milliseconds(workload.inputs("meta"), passes == "training", ceilings)
    for name, timing in found.items():
        yield Row(
            score=workload.score,
            queries=f"{label} {workload.queries}",
            regime=workload.regime,
            dtype=str(workload.dtype).removeprefix("torch."),
            run=passes,
            name=name,
            milliseconds=timing.milliseconds,
            ratio=timing.milliseconds / found[OURS].milliseconds if OURS in found else float("nan"),
            limit_ms=limit,
            peak_mib=timing.peak_mib,
            error=errors[name],
        )


LEVELS = {"high": (1, 4), "low": (0, 1), "all": (0, 4), "decoder": None}


def choose_workloads(
    dtypes: tuple[torch.dtype, ...],
    scores: tuple[str, ...],
    queries: tuple[str, ...],
    regimes: tuple[str, ...],
    **sizes: object,
) -> list[tuple[str, Workload]]:
    """Every combination, each with the name of its queries; `sizes` go to Workload. The decoder's are random."""
    found = []
    for dtype, score, name, regime in product(dtypes, scores, queries, regimes):
        if name != "decoder" or regime == regimes[-1]:
            regime = "random" if name == "decoder" else regime
            found.append((name, Workload(score, dtype, LEVELS[name], regime=regime, **sizes)))
    return found
