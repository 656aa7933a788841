"""A training step of Lite-DINO at the paper's size: its time, its waits for the device, its largest kernels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from litedetr.engine.run_config import detector_config
from litedetr.kernels.bench.side_by_side import side_by_side
from litedetr.tools.benchmark.timed_detectors import of_config
from litedetr.tools.gpu_report.plan import Context, Row, Tell
from litedetr.tools.gpu_report.steps.detectors import REHEARSED, SYSTEMS, Plan
from litedetr.tools.host_syncs import HostSync, count_host_syncs
from litedetr.tools.simulated_device import SIMULATED, SimulatedDevice

LARGEST = 15
WARM_UP = 3
MEASURED = Plan(SYSTEMS[:1], batches=(2, 8), precisions=("bf16",))


def measure_step(context: Context, tell: Tell) -> None:
    plan = REHEARSED if context.rehearse else MEASURED
    device = torch.device(context.device)
    (system,), (precision,) = plan.systems, plan.precisions
    config = detector_config(context.compose("flops", [*system.split(), *plan.added]))

    def training(batch_size: int, where: torch.device) -> Callable[[], object]:
        return of_config(system, config, plan.conditions(batch_size, precision, where)).steps["training"]

    for batch_size in plan.batches:
        step = training(batch_size, device)
        for _ in range(WARM_UP):
            step()
        timing = side_by_side({"step": step}, device, plan.milliseconds, graphs=False)["step"]
        figures = {"ms": timing.eager_ms, "host_us": timing.host_us, "peak_mib": timing.peak_mib}
        rate = {"images_per_s": batch_size * 1e3 / timing.eager_ms}
        what = {"system": system, "image": plan.image, "batch": batch_size, "precision": precision}
        tell({"kind": "training step"} | what | figures | rate)
        for wait in _waits(lambda where, size=batch_size: training(size, where), step, device):
            found = {"operator": wait.operator, "where": wait.where, "times": wait.count}
            tell({"kind": "waits", "batch": batch_size} | found)
        for row in largest(step, device):
            tell({"kind": "largest kernels", "batch": batch_size} | row)


def _waits(
    make: Callable[[torch.device], Callable[[], object]], step: Callable[[], object], device: torch.device
) -> list[HostSync]:
    """Waits of `step`. A CPU is never waited for: there the step is made on a simulated device."""
    if device.type != "cpu":
        return count_host_syncs(step, device)
    with SimulatedDevice():
        return count_host_syncs(make(SIMULATED), SIMULATED)


def largest(step: Callable[[], object], device: torch.device) -> list[Row]:
    """The kernels (on a CPU the operators) that take most of a step, each with its share."""
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as recorded:
        step()
        if on_gpu:
            torch.cuda.synchronize(device)
    kind = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    own = DeviceType.CUDA if on_gpu else DeviceType.CPU  # operators have the time of their kernels, which are there too
    # nor spans that a program names, as an optimiser does its step: their kernels are there too
    events = [event for event in recorded.key_averages() if event.device_type == own and not event.is_user_annotation]
    times = {event: getattr(event, kind) for event in events}  # microseconds
    total = sum(times.values())
    found = sorted(times, key=times.get, reverse=True)[:LARGEST]
    return [{"name": e.key, "ms": times[e] / 1e3, "share": times[e] / total, "calls": e.count} for e in found]
