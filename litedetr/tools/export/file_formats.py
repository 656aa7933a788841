"""The three kinds of file: how each is written, with its description inside, and how it is run."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.export import ExportedProgram

from litedetr.tools.export.deployed_detector import INPUT
from litedetr.tools.export.export_config import ExportConfig
from litedetr.tools.export.onnx_group_norm import translations

KEY = "litedetr"  # under which a file holds its description, as JSON
LEAST_TORCH = (2, 13)  # 2.6 and 2.11 tie the height and width of a map to those that were traced
ExportedFunction = Callable[[Tensor], tuple[Tensor, ...]]


class ExportError(ValueError):
    """A file that could not be made or does not compute what PyTorch computes; the message says what to do."""


class Format(Protocol):
    """One kind of file."""

    def require_tools(self) -> None:
        """ExportError if something is not installed."""

    def write(self, program: ExportedProgram, path: Path, description: dict[str, Any]) -> None:
        """The program, and its description inside the file."""

    def load(self, path: Path) -> ExportedFunction:
        """The file as a function of images."""


@dataclass(frozen=True)
class Onnx(Format):
    """Only standard operators, no GridSample among them; run by onnxruntime on the CPU."""

    opset: int = 18

    def require_tools(self) -> None:
        missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
        if missing:
            raise ExportError(f"format=onnx needs {', '.join(missing)}: pip install 'litedetr[export]'")

    def write(self, program: ExportedProgram, path: Path, description: dict[str, Any]) -> None:
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of torchvision's absence
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=self.opset,
            input_names=[INPUT],
            output_names=description["outputs"],
            dynamic_shapes={INPUT: {0: "batch", 2: "height", 3: "width"}},
            custom_translation_table=translations(),
            external_data=False,
            verbose=False,
        )
        exported.model.metadata_props[KEY] = json.dumps(description)
        exported.save(path, external_data=False)

    def load(self, path: Path) -> ExportedFunction:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda images: tuple(map(torch.from_numpy, session.run(None, {INPUT: images.cpu().numpy()})))


class TorchExport(Format):
    """torch.export's own file."""

    def write(self, program: ExportedProgram, path: Path, description: dict[str, Any]) -> None:
        torch.export.save(program, path, extra_files={f"{KEY}.json": json.dumps(description)})

    def load(self, path: Path) -> ExportedFunction:
        return torch.export.load(path).module()


class AotInductor(Format):
    """Compiled for the device it was exported on."""

    def require_tools(self) -> None:
        compilers = [os.environ["CXX"]] if "CXX" in os.environ else ["g++", "clang++", "cl"]
        if not any(map(shutil.which, compilers)):
            raise ExportError(f"format=aoti needs a C++ compiler, found none of {', '.join(compilers)}; CXX names one")

    def write(self, program: ExportedProgram, path: Path, description: dict[str, Any]) -> None:
        settings = {"aot_inductor.metadata": {KEY: json.dumps(description)}}
        torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=settings)

    def load(self, path: Path) -> ExportedFunction:
        return torch._inductor.aoti_load_package(str(path))


def require_torch() -> None:
    """ExportError if torch is too old to trace the detector for any size."""
    if not torch_can_trace():
        least = ".".join(map(str, LEAST_TORCH))
        raise ExportError(f"export needs torch {least} or later, this is {torch.__version__}; earlier ones fix sizes")


def torch_can_trace() -> bool:
    return tuple(int(number) for number in torch.__version__.split(".")[:2]) >= LEAST_TORCH


def file_format(config: ExportConfig) -> Format:
    """The kind of file that `config.format` names."""
    return {"onnx": Onnx(config.opset), "torch_export": TorchExport(), "aoti": AotInductor()}[config.format]
