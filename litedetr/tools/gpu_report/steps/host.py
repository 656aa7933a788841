"""Host time of a call of an attention. If the kernel takes less time, the GPU waits for the host."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from litedetr.kernels.bench.side_by_side import forward_step, side_by_side, training_step
from litedetr.kernels.bench.workloads import PYRAMID_800x1333, Workload
from litedetr.kernels.functional import attend
from litedetr.kernels.inputs import Inputs
from litedetr.tools.gpu_report.plan import Context, Row, Tell
from litedetr.tools.gpu_report.steps.attempts import attempts
from litedetr.tools.gpu_report.steps.attention import BACKEND, MILLISECONDS, SCORES, TINY

FEW = 100  # queries: kernels so short that the host decides
REHEARSED = TINY | {"shapes": TINY["shapes"][2:], "heads": 1}  # each call is made many times, by the interpreter


def measure_step(context: Context, tell: Tell) -> None:
    device = torch.device(context.device)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    sizes = REHEARSED if context.rehearse else {"shapes": PYRAMID_800x1333, "num_queries": FEW}
    with attempts(tell) as attempt:
        for score in SCORES:
            with attempt(score):
                inputs = Workload(score, dtype, None, regime="random", **sizes).inputs(device)
                for row in _rows(inputs, device, 1 if context.rehearse else MILLISECONDS):
                    tell({"kind": "host", "score": score} | row)


def _rows(inputs: Inputs, device: torch.device, rounds: int) -> Iterator[Row]:
    ours = partial(attend, backend=BACKEND)
    steps = {
        "forward without gradient": forward_step(ours, inputs),
        "forward and backward": training_step(ours, inputs, torch.randn_like(ours(inputs))),
    }
    for name, timing in side_by_side(steps, device, rounds).items():
        yield {"pass": name, "host_us": timing.host_us, "eager_us": timing.eager_ms * 1e3}
