"""Detectors as files that run without this project. docs/export.md says what they hold and how they are used."""

from litedetr.engine.export.check import Agreement, compare
from litedetr.engine.export.config import ExportConfig
from litedetr.engine.export.errors import ExportError
from litedetr.engine.export.export import Exported, export_checkpoint
from litedetr.engine.export.formats import AotInductor, Onnx, TorchExport
from litedetr.engine.export.graph import DeployedDetector, smallest_side, trace

__all__ = [
    "Agreement",
    "AotInductor",
    "DeployedDetector",
    "ExportConfig",
    "ExportError",
    "Exported",
    "Onnx",
    "TorchExport",
    "compare",
    "export_checkpoint",
    "smallest_side",
    "trace",
]
