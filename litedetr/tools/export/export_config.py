"""Settings of an export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from litedetr.engine.checkpoint import checkpoint_file
from litedetr.engine.run_config import Device, ImageSize, PixelCount
from litedetr.models import Backend
from litedetr.paths import user_path
from litedetr.settings import Flag, Integer, Maybe, Number, Some, Text, require, settings

FormatName = Literal["onnx", "torch_export", "aoti"]
SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2", "aoti": ".aoti.pt2"}


@settings()
class ExportConfig:
    """The settings of conf/export.yaml, where they are described."""

    checkpoint: Text
    format: FormatName = "onnx"
    output: Maybe[Text] = None
    postprocess: Flag = True
    backend: Maybe[Literal["auto", "reference"]] = None
    opset: Annotated[Integer, Field(ge=18)] = 18
    device: Device = "auto"
    image_size: ImageSize = (480, 640)
    check_sizes: Maybe[Some[tuple[PixelCount, PixelCount, PixelCount]]] = None  # images, height, width
    check_images: Text = "validation"
    tolerance: Annotated[Number, Field(gt=0)] = 1e-4

    def __post_init__(self) -> None:
        expected = "null or reference with format=onnx, which knows no operators of ours"
        require(self.format != "onnx" or self.backend != "auto", "backend", expected, self.backend)
        for size in self.check_sizes or ():
            other = size[1:] != self.image_size
            require(other, "check_sizes", f"sizes other than image_size, {list(self.image_size)}", list(size))
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
