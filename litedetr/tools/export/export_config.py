"""Settings of an export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from litedetr.engine.checkpoint import checkpoint_file
from litedetr.engine.run_config import LARGEST_SIDE, Device, require_image_size
from litedetr.models import Backend
from litedetr.paths import user_path
from litedetr.settings import require, typed

FormatName = Literal["onnx", "torch_export", "aoti"]
SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2", "aoti": ".aoti.pt2"}


@dataclass(frozen=True)
@typed
class ExportConfig:
    """The settings of conf/export.yaml, where they are described. check_sizes: (images, height, width)."""

    checkpoint: str
    format: FormatName = "onnx"
    output: str | None = None
    postprocess: bool = True
    backend: Literal["auto", "reference"] | None = None
    opset: int = 18
    device: Device = "auto"
    image_size: tuple[int, int] = (480, 640)
    check_sizes: tuple[tuple[int, int, int], ...] | None = None
    check_images: str = "validation"
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        self._require_backend()
        require_image_size(self.image_size)
        require(self.opset >= 18, "opset", "at least 18", self.opset)
        require(self.tolerance > 0, "tolerance", "above 0", self.tolerance)
        for size in self.check_sizes or ():
            fits = min(size) >= 1 and max(size) <= LARGEST_SIDE
            require(fits, "check_sizes", f"[images, height, width] of 1 to {LARGEST_SIDE} each", size)
            other = size[1:] != self.image_size
            require(other, "check_sizes", f"sizes other than image_size, {list(self.image_size)}", list(size))
        require(self.check_sizes != (), "check_sizes", "null or at least one size", self.check_sizes)
        name, suffix = self.target.name, SUFFIXES[self.format]
        fits = name.endswith(suffix) or (self.format == "aoti" and name.endswith(".pt2"))
        require(fits, "output", f"a file name that ends in {suffix}", self.output)
        require(self.target.parent.is_dir(), "output", "a file in a folder that exists", str(self.target))

    @property
    def path(self) -> Path:
        """The checkpoint's file; of a run folder, its best.pt."""
        return checkpoint_file(self.checkpoint)

    @property
    def target(self) -> Path:
        """The file to write."""
        return self.path.with_suffix(SUFFIXES[self.format]) if self.output is None else user_path(self.output)

    @property
    def attention(self) -> Backend:
        """What computes the attentions in the file."""
        return self.backend or ("reference" if self.format == "onnx" else "auto")

    def _require_backend(self) -> None:
        expected = "null or reference with format=onnx, which knows no operators of ours"
        require(self.format != "onnx" or self.backend != "auto", "backend", expected, self.backend)
