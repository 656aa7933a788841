"""Rows of the kernels' benchmark: an attention beside its peers, checked against the reference before it is timed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from litedetr.kernels.bench.accuracy import PEER_TOLERANCE, TOLERANCE, reference_results, relative_error
from litedetr.kernels.bench.ceilings import Ceilings, floor_milliseconds
from litedetr.kernels.bench.cuda_gpu import Step
from litedetr.kernels.bench.peers import PEERS, obstacle
from litedetr.kernels.bench.side_by_side import forward_step, side_by_side, training_step
from litedetr.kernels.bench.timing import Timed
from litedetr.kernels.bench.workloads import Workload
from litedetr.kernels.functional import Backend, attend
from litedetr.kernels.inputs import Inputs

OURS = "ours"


@dataclass(frozen=True)
class Comparison:
    """What is compared, and how."""

    device: torch.device  # where all calls run
    passes: tuple[str, ...]  # `forward`, `training` (with backward)
    peers: tuple[str, ...]  # of PEERS
    rounds: int  # turns on a CPU; on a GPU milliseconds of each kind of timing
    backend: Backend = "auto"  # of ours

    def step(self, name: str, passes: str, inputs: Inputs, grad_out: Tensor) -> Step:
        """A call of ours, or of a peer. grad_out: (B, Q, M, D)."""
        call = partial(attend, backend=self.backend) if name == OURS else PEERS[name]
        return training_step(call, inputs, grad_out.flatten(2)) if passes == "training" else forward_step(call, inputs)


class Errors(NamedTuple):
    """Relative RMS beside the reference."""

    out: float  # of the output
    grad: float  # of the worst gradient


@dataclass(frozen=True)
class Row:
    """One measurement. Times are of one call; on a CPU, and if there is no graph, only the eager one is known."""

    score: str  # of inputs.Score
    queries: str  # their name in LEVELS, and their number
    regime: str  # where the references lie, of workloads.Regime
    dtype: str  # of the values
    run: str  # the pass, by the name of its column in files
    name: str  # `ours`, or a peer
    milliseconds: float  # what `ratio` compares
    timed: Timed  # what `milliseconds` is: a warm graph replay, or eager
    ratio: float  # over our time of the same kind
    limit_ms: float  # the least time that moving the bytes takes
    limit_share: float  # limit_ms over the cold time, in which all comes from memory; else over `milliseconds`
    warm_ms: float | None  # graph replays
    cold_ms: float | None  # graph replays, the L2 cache overwritten before each call
    eager_ms: float  # calls from the host
    host_us: float | None  # microseconds until the host has enqueued a call
    peak_mib: float  # memory that tensors take on top of what is there before
    out_error: float  # relative RMS
    grad_error: float  # of the worst gradient, also in rows of the forward pass
    note: str  # why there is no graph


def measure(workloads: list[tuple[str, Workload]], comparison: Comparison, ceilings: Ceilings) -> Iterator[Row | str]:
    """Rows of ours and of every peer that can take the calls; a line of text where one is wrong and so not timed.

    workloads: each with the name of its queries.
    """
    for label, workload in workloads:
        inputs = workload.inputs(comparison.device)
        grad_out = torch.randn(inputs.points.offsets.shape[:3] + inputs.value.shape[3:])
        grad_out = grad_out.to(comparison.device, workload.dtype)
        right = {}
        for name, found in _checked(inputs, grad_out, comparison):
            limit = TOLERANCE[workload.dtype] if name == OURS else PEER_TOLERANCE
            if isinstance(found, Errors) and max(found) <= limit:
                right[name] = found
            else:
                what = f"is off by {max(found):.1e} (relative RMS)" if isinstance(found, Errors) else f"fails: {found}"
                yield f"{name} {what} on {label} {workload.regime}: not timed"
        for passes in comparison.passes:
            steps = {name: comparison.step(name, passes, inputs, grad_out) for name in right}
            yield from _rows(label, workload, passes, steps, right, comparison, ceilings)


def _checked(inputs: Inputs, grad_out: Tensor, comparison: Comparison) -> Iterator[tuple[str, Errors | str]]:
    """Of ours and of each peer that can take the call; of a peer's own exception what it says, which ends that peer's
    rows only. (The exception would keep the graph of the call alive, and no CUDA graph holds a step that begins at the
    leaves of another.)
    """
    expected = reference_results(inputs, grad_out)
    yield OURS, _beside(comparison.step(OURS, "training", inputs, grad_out)(), expected)
    for name in comparison.peers:
        if obstacle(name, inputs) is None:
            try:
                found = _beside(comparison.step(name, "training", inputs, grad_out)(), expected)
            except Exception as error:
                found = str(error)
            yield name, found


def _beside(results: dict[str, Tensor], expected: dict[str, Tensor]) -> Errors:
    found = {name: relative_error(tensor, expected[name]) for name, tensor in results.items()}
    return Errors(found.pop("out"), max(found.values()))


def _rows(
    label: str,
    workload: Workload,
    passes: str,
    steps: dict[str, Step],
    errors: dict[str, Errors],
    comparison: Comparison,
    ceilings: Ceilings,
) -> Iterator[Row]:
    found = side_by_side(steps, comparison.device, comparison.rounds)
    limit = floor_milliseconds(workload.inputs("meta"), passes == "training", ceilings)
    for name, timing in found.items():
        timed = timing.comparable(found[OURS]) if OURS in found else timing.timed
        milliseconds = timing.by(timed)
        yield Row(
            score=workload.score,
            queries=f"{label} {workload.queries}",
            regime=workload.regime,
            dtype=str(workload.dtype).removeprefix("torch."),
            run=passes,
            name=name,
            milliseconds=milliseconds,
            timed=timed,
            ratio=milliseconds / found[OURS].by(timed) if OURS in found else float("nan"),
            limit_ms=limit,
            # of a short kernel noise can leave less of the cold time, a difference, than of the warm one, or nothing
            limit_share=limit / (milliseconds if timing.cold_ms is None else max(timing.cold_ms, timing.warm_ms)),
            out_error=errors[name].out,
            grad_error=errors[name].grad,
            **asdict(timing),
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
