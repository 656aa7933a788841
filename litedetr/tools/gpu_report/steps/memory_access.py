"""What bounds the kernels beside arithmetic: how fast this GPU gathers rows of a table and adds to them."""

from __future__ import annotations

from itertools import chain

import torch

from litedetr.kernels.bench.memory_probes import TINY, Probe, Sizes, atomics, gathers
from litedetr.kernels.bench.side_by_side import side_by_side
from litedetr.tools.gpu_report.plan import Context, Row, Tell
from litedetr.tools.gpu_report.steps.attempts import attempts

MILLISECONDS = 20


def measure_step(context: Context, tell: Tell) -> None:
    device = torch.device(context.device)
    sizes = TINY if context.rehearse else Sizes()
    rounds = 1 if context.rehearse else MILLISECONDS
    with attempts(tell) as attempt:
        for probe in chain(atomics(sizes, device), gathers(sizes, device)):
            with attempt(f"{probe.kind}: {probe.what}, {probe.where}"):
                tell(_row(probe, side_by_side({"probe": probe}, device, rounds)["probe"].milliseconds))


def _row(probe: Probe, milliseconds: float) -> Row:
    rate = {"tera_lanes_per_s": probe.lanes / milliseconds / 1e9} if probe.lanes else {}
    moved = {"tb_per_s": probe.bytes / milliseconds / 1e9}
    return {"kind": probe.kind, "what": probe.what, "where": probe.where, "ms": milliseconds} | rate | moved
