"""Both attentions beside their peers, each checked against the reference before it is timed."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

from litedetr.kernels.bench.ceilings import Ceilings
from litedetr.kernels.bench.comparison import Comparison, choose_workloads, measure
from litedetr.kernels.bench.comparison import Row as Measured
from litedetr.kernels.functional import Backend
from litedetr.tools.gpu_report.plan import Context, Row, Tell
from litedetr.tools.gpu_report.steps.attempts import attempts

PASSES = ("forward", "training")
TINY = {"shapes": ((6, 9), (3, 5), (2, 3), (1, 2)), "heads": 2, "channels": 8, "num_queries": 9}
BACKEND: Backend = "triton"  # in a rehearsal too
MILLISECONDS = 30  # of each measurement on a GPU


@dataclass(frozen=True)
class Part:
    """Workloads that are measured together."""

    dtypes: tuple[torch.dtype, ...]
    queries: tuple[str, ...]
    regimes: tuple[str, ...]
    peers: tuple[str, ...]


FAST = ("unfused", "deformops", "deformops_fp32")
SCORES = ("key_aware_shared", "deformable", "key_aware")
HALF, SINGLE = (torch.bfloat16,), (torch.float32,)
# most valuable first; the compiled reference late, as it takes longest to compile
PARTS = (
    Part(HALF, ("high", "all", "decoder"), ("grid",), FAST),
    Part(SINGLE, ("high", "all"), ("grid",), FAST),
    Part(HALF, ("high", "all"), ("random",), FAST),
    Part(HALF, ("low",), ("grid",), FAST),
    Part(HALF, ("high",), ("grid",), ("reference", "compiled")),
    Part(SINGLE, ("high",), ("grid",), ("reference", "compiled")),
    Part(SINGLE, ("high", "all", "decoder"), ("random",), FAST),
)
REHEARSED = (Part(SINGLE, ("high",), ("grid",), ("reference", "unfused")),)


def measure_step(context: Context, tell: Tell) -> None:
    device = torch.device(context.device)
    ceilings = Ceilings.of(device)
    sizes = TINY if context.rehearse else {}
    with attempts(tell) as attempt:
        for part in REHEARSED if context.rehearse else PARTS:
            how = Comparison(device, PASSES, part.peers, 1 if context.rehearse else MILLISECONDS, BACKEND)
            for label, workload in choose_workloads(part.dtypes, SCORES, part.queries, part.regimes, **sizes):
                with attempt(f"{workload.score} {label} {workload.regime} {workload.dtype}"):
                    for found in measure([(label, workload)], how, ceilings):
                        tell(_row(found))


def _row(found: Measured | str) -> Row:
    if isinstance(found, str):
        return {"kind": "remark", "text": found}
    return {"kind": "attention", "backend": BACKEND} | asdict(found)
