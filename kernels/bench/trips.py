"""How often the kernels' loops run."""

from __future__ import annotations

import math
from collections.abc import Callable

from litedetr.kernels.bench.instructions import NotCounted
from litedetr.kernels.bench.jobs import Job
from litedetr.kernels.bench.segment_trips import steps_of_patches
from litedetr.kernels.fused.call import POINTS_AT_ONCE
from litedetr.kernels.fused.launch import AnyLaunch

Trips = tuple[float, ...]  # of each loop in the order of the code, an outer one before those in it


def each_level(job: Job, launch: AnyLaunch) -> Trips:
    """One loop over the levels, some points of each at a time."""
    work = job.workload
    return (len(work.shapes) * math.ceil(work.points / POINTS_AT_ONCE),)


def each_step(job: Job, launch: AnyLaunch) -> Trips:
    """A loop over a patch's samples, and one for each table over what is not finite, of which a workload has none."""
    of_spoiled = (0.0, 0.0) if job.workload.score == "key_aware" else (0.0,)
    return steps_of_patches(job.workload, launch).double().mean().item(), *of_spoiled


# By the name of a kernel. If trips depend on the data: their mean over the workload's inputs.
TRIPS: dict[str, Callable[[Job, AnyLaunch], Trips]] = {
    "forward_kernel": each_level,
    "backward_kernel": each_level,
    "segment_kernel": each_step,
}


def trips_of(kernel: str, job: Job, launch: AnyLaunch) -> Trips:
    """Of a kernel by its name. Raises NotCounted if they are not known."""
    if kernel not in TRIPS:
        raise NotCounted(f"{kernel}: the trips of its loops are not known")
    return TRIPS[kernel](job, launch)
