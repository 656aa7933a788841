"""Detectors as files that run without this project. docs/export.md says what they hold and how they are used."""

from litedetr.tools.export.check import Agreement, compare
from litedetr.tools.export.errors import ExportError
from litedetr.tools.export.export import Exported, export_checkpoint
from litedetr.tools.export.export_config import ExportConfig
from litedetr.tools.export.formats import AotInductor, Onnx, TorchExport
from litedetr.tools.export.graph import DeployedDetector, smallest_side, trace

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
