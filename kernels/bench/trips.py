"""How often the kernels' loops run."""

from __future__ import annotations

import math
from collections.abc import Callable

from litedetr.kernels.bench.instructions import NotCounted
from litedetr.kernels.bench.jobs import Job
from litedetr.kernels.fused.call import POINTS_AT_ONCE
from litedetr.kernels.fused.launch import Launch, Segments

Trips = tuple[float, ...]  # of each loop in the order of the code, an outer one before those in it


def each_level(job: Job, launch: Launch | Segments) -> Trips:
    """One loop over the levels, some points of each at a time."""
    work = job.workload
    return (len(work.shapes) * math.ceil(work.points / POINTS_AT_ONCE),)


# By the name of a kernel. An average if the trips depend on the data, which those of a workload's inputs then decide.
TRIPS: dict[str, Callable[[Job, Launch | Segments], Trips]] = {
    "forward_kernel": each_level,
    "backward_kernel": each_level,
}


def trips_of(kernel: str, job: Job, launch: Launch | Segments) -> Trips:
    """Of a kernel by its name. Raises NotCounted if they are not known."""
    if kernel not in TRIPS:
        raise NotCounted(f"{kernel}: the trips of its loops are not known")
    return TRIPS[kernel](job, launch)
