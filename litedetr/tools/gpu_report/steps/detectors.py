"""Whole detectors at the paper's size, eager and replayed from a graph, and those of transformers if installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from itertools import product

import torch

from litedetr.engine.run_config import GpuSettings, Precision, detector_config
from litedetr.kernels.bench.side_by_side import side_by_side
from litedetr.tools.benchmark.peers import peer
from litedetr.tools.benchmark.timed_detectors import Conditions, TimedDetector, of_config
from litedetr.tools.gpu_report.plan import Context, Row, Tell
from litedetr.tools.gpu_report.steps.attempts import attempts
from litedetr.tools.random_batch import RandomBatch

SYSTEMS = (
    "model=lite_dino encoder=h3l1 a=6 b=1",
    "model=dino_4scale",
    "model=lite_dino encoder=h3l1 a=2 b=3",
    "model=lite_dino encoder=h2l2 a=2 b=3",
)
PEERS = ("rt_detr", "deformable_detr")  # of transformers
NUM_CLASSES, NUM_OBJECTS = 80, 10
SETTINGS = (GpuSettings(cudnn_benchmark=True), GpuSettings(tf32="never"), GpuSettings(tf32="always"))


@dataclass(frozen=True)
class Plan:
    """What is timed, and at which size."""

    systems: tuple[str, ...] = SYSTEMS  # settings for conf/flops.yaml
    added: tuple[str, ...] = ()  # to the settings of each
    image_size: tuple[int, int] = (800, 1333)
    batches: tuple[int, ...] = (1, 8)
    precisions: tuple[Precision, ...] = ("bf16", "fp32")
    peers: tuple[str, ...] = PEERS
    milliseconds: int = 200  # of each kind of timing, on a GPU
    settings: tuple[GpuSettings, ...] = SETTINGS  # that the first system is timed with, besides

    @property
    def image(self) -> str:
        """Its size in words."""
        return "x".join(map(str, self.image_size))

    def conditions(self, batch_size: int, precision: Precision, device: torch.device) -> Conditions:
        batch = RandomBatch(self.image_size, batch_size, NUM_OBJECTS, NUM_CLASSES, precision)
        return Conditions(batch, device)


REHEARSED = Plan(SYSTEMS[:1], ("size=small", "backbone=resnet18_slim"), (64, 96), (1,), ("fp32",), (), 1, SETTINGS[:1])


def measure_step(context: Context, tell: Tell) -> None:
    plan = REHEARSED if context.rehearse else Plan()
    device = torch.device(context.device)
    with attempts(tell) as attempt:
        for precision, batch_size in product(plan.precisions, plan.batches):
            what = {"kind": "detectors", "image": plan.image, "batch": batch_size, "precision": precision}
            for name, make in _detectors(plan, plan.conditions(batch_size, precision, device), context):
                with attempt(f"{name}, batch {batch_size}, {precision}"):
                    tell(what | _timed(make(), plan, device))
        for precision, settings in product(plan.precisions, plan.settings):
            what = {"kind": "settings", "image": plan.image, "batch": plan.batches[0], "precision": precision}
            what |= asdict(settings)
            name, make = next(_detectors(plan, plan.conditions(plan.batches[0], precision, device), context))
            with attempt(f"{name}, {precision}, {settings}"):
                settings.apply()
                tell(what | _timed(make(), plan, device))


def _detectors(
    plan: Plan, conditions: Conditions, context: Context
) -> Iterator[tuple[str, Callable[[], TimedDetector]]]:
    """With their names; to be made one at a time: together they would not fit."""
    for system in plan.systems:
        config = detector_config(context.compose("flops", [*system.split(), *plan.added]))
        yield system, partial(of_config, system, config, conditions)
    for name in plan.peers if find_spec("transformers") else ():
        yield name, partial(peer, name, conditions)


def _timed(detector: TimedDetector, plan: Plan, device: torch.device) -> Row:
    timed = side_by_side({name: detector.steps[name] for name in ("forward", "backbone")}, device, plan.milliseconds)
    forward, backbone = timed["forward"], timed["backbone"]
    return {
        "system": detector.name,
        "eager_ms": forward.eager_ms,
        "graph_ms": forward.warm_ms,
        "host_us": forward.host_us,
        "backbone_eager_ms": backbone.eager_ms,
        "backbone_graph_ms": backbone.warm_ms,
        "peak_mib": forward.peak_mib,
        "parameters_m": detector.parameters,
        "note": forward.note,
    }
