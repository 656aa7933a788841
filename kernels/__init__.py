"""Multi-scale deformable and key-aware deformable attention; torch and triton only, knows nothing of detection."""

from kernels.constants import constants_held
from kernels.interface import Backend, deformable_attention, key_aware_attention
from kernels.points import SamplingPoints

__all__ = ["Backend", "SamplingPoints", "constants_held", "deformable_attention", "key_aware_attention"]
