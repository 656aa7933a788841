"""The largest kernels of a step, as PyTorch's profiler tells them."""

from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch
from torch.autograd import DeviceType

from litedetr.tools.gpu_report.steps import training_step as module
from litedetr.tools.gpu_report.steps.training_step import largest


@dataclass(frozen=True)
class Event:
    """As much of an averaged event as is read."""

    key: str
    device_type: DeviceType
    self_device_time_total: float
    is_user_annotation: bool = False
    self_cpu_time_total: float = 1.0
    count: int = 2


EVENTS = [
    Event("aten::mm", DeviceType.CPU, 900.0),
    Event("Optimizer.step#AdamW.step", DeviceType.CUDA, 800.0, is_user_annotation=True),
    Event("fused_adam", DeviceType.CUDA, 250.0),
    Event("gemm", DeviceType.CUDA, 750.0),
]


def test_on_a_gpu_kernels_count_once(monkeypatch: pytest.MonkeyPatch):
    """Not the operators that launch them, nor the spans that hold them."""

    @contextmanager
    def profile(activities):
        assert torch.profiler.ProfilerActivity.CUDA in activities
        yield type("Recorded", (), {"key_averages": lambda self: EVENTS})()

    monkeypatch.setattr(module, "profile", profile)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    assert largest(lambda: None, torch.device("cuda")) == [
        {"name": "gemm", "ms": 0.75, "share": 0.75, "calls": 2},
        {"name": "fused_adam", "ms": 0.25, "share": 0.25, "calls": 2},
    ]


def test_pytorch_tells_spans_from_operators():
    """By the name that is read here."""
    watched = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])
    with watched as recorded, torch.profiler.record_function("a span"):
        torch.ones(8) @ torch.ones(8)
    spans = {event.key for event in recorded.key_averages() if event.is_user_annotation}
    assert spans == {"a span"}
