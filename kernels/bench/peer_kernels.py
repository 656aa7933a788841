"""Triton kernels of other libraries, to count their instructions beside ours.

Their code is no part of this project. A source is a module that is installed, or a file `<peer>.py` in a folder of the
user's, copied from the repository and path that `PeerKernels.at` names.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import torch

from litedetr.kernels.bench import peer_launches
from litedetr.kernels.bench.jobs import Job
from litedetr.kernels.bench.trips import Trips
from litedetr.kernels.bench.workloads import Workload
from litedetr.kernels.fused.call import Launcher
from litedetr.kernels.fused.launch import Pass
from litedetr.kernels.inputs import Score


@dataclass(frozen=True)
class PeerKernels:
    """A library's kernels for one of our scores."""

    score: Score  # which one they compute
    at: str  # the module to import, or the repository and path of the file
    launch: Callable[[ModuleType, Workload, Pass, Launcher], None]  # of peer_launches.py
    trips: Callable[[Workload], Trips]  # how often their loops run
    half: torch.dtype = torch.bfloat16  # its half precision, whichever of the two is asked for
    note: str = ""  # what it does not do
    only: tuple[Pass, torch.dtype] | None = None  # the pass and precision in which it is not the same as another peer

    def load(self, name: str, folder: Path | None) -> ModuleType:
        """The module with its kernels. Needs `compiling_for`: a peer may look at the target as it is imported.

        Raises FileNotFoundError, with where its source is found, if it is neither installed nor in the folder.
        """
        if "/" not in self.at:
            try:
                return importlib.import_module(self.at)
            except ModuleNotFoundError as error:
                raise FileNotFoundError(f"{name}: not installed ({error})") from error
        path = None if folder is None else folder / f"{name}.py"
        if path is None or not path.exists():
            raise FileNotFoundError(f"{name}: expected a copy of {self.at} as {name}.py in the folder of sources")
        spec = importlib.util.spec_from_file_location(f"peer_{name}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def takes(self, job: Job) -> Job | None:
        """The job in a precision that it has, or None. No peer has a deterministic backward pass."""
        work = job.workload
        if job.pass_name == "segments":
            return None
        if work.dtype.itemsize == 2:
            work = replace(work, dtype=self.half)
        fits = work.score == self.score and self.only in (None, (job.pass_name, work.dtype))
        return replace(job, workload=work) if fits else None


def by_level_and_point(work: Workload) -> Trips:
    """A loop over levels, in it one over points."""
    return len(work.shapes), work.points


def unrolled(work: Workload) -> Trips:
    return ()


def by_eight(work: Workload) -> Trips:
    """A loop over the samples of a query, eight at a time."""
    return (-(-len(work.shapes) * work.points // 8),)


DEFORMOPS = "deformops.backends.triton._kernels.msda_query_tiled"
ROULBAC = "github.com/roulbac/msda-triton/src/msda_triton/kernels.py"
RZIGA = "github.com/rziga/msda-triton/src/msda_triton/kernels.py"
ALEXANDER0YANG = "github.com/Alexander0Yang/fused-deform-multi-head-scaled-dot-product-attention-triton/ops/triton.py"
GIVEN = "softmax not in the kernel"

PEER_KERNELS = {
    "deformops": PeerKernels("deformable", DEFORMOPS, peer_launches.deformops, by_level_and_point),
    "deformops_fp32": PeerKernels(
        "deformable",
        DEFORMOPS,
        peer_launches.deformops_fp32,
        by_level_and_point,
        note="adds gradients in fp32",
        only=("backward", torch.bfloat16),
    ),
    "roulbac": PeerKernels("deformable", ROULBAC, peer_launches.roulbac, unrolled, note=GIVEN),
    "rziga": PeerKernels("deformable", RZIGA, peer_launches.rziga, unrolled, torch.float16, note=GIVEN),
    "alexander0yang": PeerKernels(
        "key_aware",
        ALEXANDER0YANG,
        peer_launches.alexander0yang,
        by_eight,
        torch.float16,
        note="one level, no gradient of locations",
    ),
}
