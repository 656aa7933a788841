"""Multi-scale deformable and key-aware deformable attention; torch and triton only, knows nothing of detection."""

from kernels.interface import Backend, deformable_attention, key_aware_attention
from kernels.points import SamplingPoints

__all__ = ["Backend", "SamplingPoints", "deformable_attention", "key_aware_attention"]
