"""What a training step holds in memory, counted from the tensors that are alive."""

from litedetr.tools.memory.live_bytes import LiveBytes
from litedetr.tools.memory.sample_step import Memory, SampleStep, StepConfig

__all__ = ["LiveBytes", "Memory", "SampleStep", "StepConfig"]
