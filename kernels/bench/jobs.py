"""What is tuned or compiled: a pass over a workload."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

from litedetr.kernels.bench.workloads import Workload
from litedetr.kernels.fused.launch import AnyLaunch, Pass, Shape

DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)  # the ones that users train with first
WEIGHT = {"forward": 1, "backward": 3, "segments": 3}  # time of a pass, roughly


@dataclass(frozen=True)
class Job:
    """A pass over a workload."""

    workload: Workload  # the sizes of the call
    pass_name: Pass  # which pass of it
    calls: int = 1  # in one forward pass of the model

    @property
    def shape(self) -> Shape:
        """What its launch depends on."""
        return Shape.of(self.pass_name, self.workload.inputs("meta"))

    @property
    def rank(self) -> tuple[int, int]:
        """The smallest is the most valuable: by precision, then by the number of samples in a training step."""
        work = self.workload
        samples = work.batch * work.queries * work.heads * len(work.shapes) * work.points * work.channels
        return DTYPES.index(work.dtype), -WEIGHT[self.pass_name] * self.calls * samples


@dataclass(frozen=True)
class Untuned:
    """A job without a result, or whose launches were not all tried."""

    job: Job  # without a result, or tried in part
    reason: str  # why, in one line


def launch_text(launch: AnyLaunch) -> str:
    """Its settings without those that are left to Triton."""
    return ", ".join(f"{name} {value}" for name, value in asdict(launch).items() if value is not None)
