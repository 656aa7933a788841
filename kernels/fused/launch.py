"""How many queries a program takes, in which order, and with how many warps.

From kernels/tuned/<gpu>.json where scripts/autotune.py has measured the shape on this GPU, else by a rule that keeps
the elements a thread holds below what was seen to spill.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
import triton

from litedetr.kernels.constants import MOST_KEPT
from litedetr.kernels.fused.sizes import Sizes, power_of_two
from litedetr.kernels.inputs import Inputs, Score

Pass = Literal["forward", "backward", "segments"]  # segments: the deterministic backward pass, how values are added up

TUNED = Path(__file__).parent.parent / "tuned"
ELEMENTS_PER_THREAD = 8  # of a vector tile: with 32 channels, four lanes of a warp hold a query head
THREADS_PER_WARP = 32
MOST_WARPS = 16
# Without a limit the assembler spills a predicate here, to fit more programs on a multiprocessor than needed (sm_90).
TIGHT_REGISTERS = {("forward", "deformable"): 64}
# Without a limit it takes 128 here and spills 8 bytes; with this one it takes 127 and spills nothing.
SEGMENT_REGISTERS = {("key_aware", "float32"): 136}


@dataclass(frozen=True)
class Launch:
    """How the kernels over blocks of queries are launched."""

    block_queries: int  # queries a program takes
    num_warps: int  # that share them
    tile_height: int = 1  # rows of the query grid that a block spans; 1: raster order
    max_registers: int | None = None  # of a thread, on NVIDIA GPUs; None: as the assembler likes
    num_stages: int | None = None  # of a pipelined loop; None: as Triton likes

    def __post_init__(self) -> None:
        _require_powers_of_two(self, "block_queries", "num_warps", "tile_height")
        _require_stages(self.num_stages)
        if self.tile_height > self.block_queries:
            raise ValueError(
                f"tile_height: expected at most block_queries = {self.block_queries}, got {self.tile_height}"
            )

    @property
    def tile(self) -> tuple[int, int]:
        """(height, width) in queries."""
        return self.tile_height, self.block_queries // self.tile_height


@dataclass(frozen=True)
class Segments:
    """How the kernel of kernels/fused/segments.py is launched."""

    samples: int  # of a patch, that a program takes at a time
    num_warps: int  # of a program
    patch_samples: int = 320  # that patches hold at most on average, if they have more cells than one
    max_registers: int | None = None  # as in Launch
    num_stages: int | None = None  # as in Launch

    def __post_init__(self) -> None:
        _require_powers_of_two(self, "samples", "num_warps")
        if not (isinstance(self.patch_samples, int) and self.patch_samples >= 1):
            raise ValueError(f"patch_samples: expected at least 1, got {self.patch_samples!r}")
        _require_stages(self.num_stages)


AnyLaunch = Launch | Segments


def _require_powers_of_two(launch: AnyLaunch, *names: str) -> None:
    for name in names:
        number = getattr(launch, name)
        if not isinstance(number, int) or number < 1 or number & (number - 1):
            raise ValueError(f"{name}: expected a power of two, got {number!r}")


def _require_stages(number: object) -> None:
    if number is not None and not (isinstance(number, int) and number >= 1):
        raise ValueError(f"num_stages: expected null or at least 1, got {number!r}")


FEWEST_SEGMENT_SAMPLES = 16  # taken at a time: tl.dot in Triton 3.6 sums over no fewer; float64 has no tl.dot
MOST_SEGMENT_SAMPLES = 32
SEGMENT_SAMPLES = {"float32": 16, "float64": 4}  # of these dtypes; others have MOST_SEGMENT_SAMPLES
SEGMENT_CHANNELS = 32  # of a warp
KINDS = {"forward": Launch, "backward": Launch, "segments": Segments}
HALVES = ("bfloat16", "float16")
# names and values in files that earlier versions wrote, and what they are now
FORMER = {"run": "pass_name", "logits": "deformable", "shared": "key_aware_shared", "own": "key_aware"}


@dataclass(frozen=True)
class Shape:
    """What a launch depends on."""

    pass_name: Pass
    score: Score
    dtype: str  # of the values, as torch names it: bfloat16
    heads: int  # M
    channels: int  # D
    levels: int  # L
    points: int  # P
    queries: int  # B * Q rounded up to a power of two

    @classmethod
    def of(cls, pass_name: Pass, inputs: Inputs) -> Shape:
        return shape_of(pass_name, Sizes.of(inputs))


@lru_cache(maxsize=MOST_KEPT)
def shape_of(pass_name: Pass, sizes: Sizes) -> Shape:
    dtype = str(sizes.dtype).removeprefix("torch.")
    queries = power_of_two(max(sizes.batch * sizes.queries, 1))
    return Shape(pass_name, sizes.score, dtype, sizes.heads, sizes.channels, sizes.levels, sizes.points, queries)


Launches = Callable[[Shape, torch.device], AnyLaunch]  # how a shape is launched on a device


def choose(shape: Shape, device: torch.device) -> AnyLaunch:
    """The launch of a shape on a device."""
    if device.type != "cuda":
        return rule(shape)
    index = torch.cuda.current_device() if device.index is None else device.index
    return tuned(gpu_name(index)).get(shape) or rule(shape)


def given(**launches: AnyLaunch) -> Launches:
    """These launches for the passes they are given for, the rule's for the others; on every device."""
    return lambda shape, device: launches.get(shape.pass_name) or rule(shape)


@lru_cache
def gpu_name(index: int) -> str:
    return torch.cuda.get_device_name(index)


def rule(shape: Shape) -> AnyLaunch:
    """The launch of a shape that was not measured."""
    if shape.pass_name == "segments":
        return rule_of_segments(shape)
    return rule_of_queries(shape)


def rule_of_segments(shape: Shape) -> Segments:
    """A warp for 32 channels, and so few samples at a time that 16 warps fit on a multiprocessor of sm_90."""
    warps = min(max(1, power_of_two(shape.channels) // SEGMENT_CHANNELS), MOST_WARPS)
    samples = SEGMENT_SAMPLES.get(shape.dtype, MOST_SEGMENT_SAMPLES)
    if shape.score == "key_aware" and shape.dtype == "float16":  # sums for two tables
        samples //= 2
    return Segments(samples, warps, max_registers=SEGMENT_REGISTERS.get((shape.score, shape.dtype)))


@lru_cache(maxsize=MOST_KEPT)
def rule_of_queries(shape: Shape) -> Launch:
    """Blocks of four warps, more where one query alone would be too much for them."""
    is_odd = shape.channels % 2 == 1
    per_query = power_of_two(shape.channels) * (1 + is_odd)  # odd ones have an address and a predicate each
    most = ELEMENTS_PER_THREAD * THREADS_PER_WARP
    if shape.dtype == "float64":
        most //= 2
    warps = min(max(4, per_query // most), MOST_WARPS)
    block = max(1, min(warps * most // per_query, power_of_two(shape.queries)))
    is_tight = shape.dtype in HALVES and shape.levels > 1 and not is_odd
    registers = TIGHT_REGISTERS.get((shape.pass_name, shape.score)) if is_tight else None
    return Launch(block, warps, max_registers=registers)


@lru_cache
def tuned(gpu: str, folder: Path | None = None) -> dict[Shape, AnyLaunch]:
    """The launches measured on a GPU with the Triton version installed here. folder: of the file; None: TUNED."""
    entries = read_entries((folder or TUNED) / file_name(gpu))
    return {shape: KINDS[shape.pass_name](**entry["launch"]) for shape, entry in entries.items()}


def read_entries(path: Path) -> dict[Shape, dict[str, Any]]:
    """The entries of a file of tuned launches by shape; none where there is no file, or of another Triton version."""
    if not path.exists():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["triton"] != triton.__version__:
        return {}
    entries = [entry for entry in content["entries"] if "tokens" not in entry["launch"]]  # of a kernel that is gone
    return {_shape_of_entry(entry): entry for entry in entries}


def _shape_of_entry(entry: dict[str, Any]) -> Shape:
    """Also of files that earlier versions wrote."""
    return Shape(**{FORMER.get(name, name): FORMER.get(value, value) for name, value in entry["shape"].items()})


def file_name(gpu: str) -> str:
    """Of the tuned launches of a GPU, by its name."""
    return re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-") + ".json"
