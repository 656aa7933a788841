"""Export a checkpoint to a file, and check the file against PyTorch."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from litedetr.data import TransformConfig
from litedetr.engine.checkpoint import LoadedDetector, load_detector
from litedetr.engine.distributed import join_ranks
from litedetr.settings import require, to_mapping
from litedetr.tools.export.check_images import check_batches, images_to_check_on
from litedetr.tools.export.compare import Agreement, compare
from litedetr.tools.export.deployed_detector import INPUT, DeployedDetector, smallest_side, trace
from litedetr.tools.export.export_config import ExportConfig
from litedetr.tools.export.file_formats import ExportedFunction, ExportError, file_format, require_torch

REPEATS = 5


@dataclass(frozen=True)
class Exported:
    """A file that passed its checks."""

    path: Path
    num_bytes: int
    seconds: float  # to trace and to write
    signature: tuple[str, ...]  # input and outputs, as text
    agreements: tuple[Agreement, ...]
    milliseconds: tuple[float, float]  # one image of the first checked size: the file, PyTorch with the same attention


def export_checkpoint(config: ExportConfig, say: Callable[[str], None] = lambda text: None) -> Exported:
    """Write the file under another name, check it, and give it its name once it has passed.

    say: takes a line on each step. Raises ExportError if torch is too old, if a package is missing, or if the file
    disagrees with PyTorch; then it keeps the name `unchecked-...`.
    """
    require_torch()
    kind = file_format(config)
    kind.require_tools()
    loaded = load_detector(config.path, config.attention)
    with join_ranks(config.device) as ranks:
        graph = DeployedDetector(loaded.model, config.postprocess).to(ranks.device)
        source = images_to_check_on(config.check_images, loaded, say)
        batches = check_batches(source, loaded, check_sizes(config, graph))
        require_size("image_size", config.image_size, graph)
        start = time.perf_counter()
        say(f"{config.path}: tracing at {config.image_size[0]}x{config.image_size[1]}")
        program = trace(graph, config.image_size)
        unchecked = config.target.with_name(f"unchecked-{config.target.name}")
        say(f"writing {unchecked}")
        kind.write(program, unchecked, describe(config, loaded, graph, say))
        seconds = time.perf_counter() - start
        exported = kind.load(unchecked)
        agreements = []
        for batch in batches:
            agreements.append(compare(graph, exported, batch.to(ranks.device)))
            say(str(agreements[-1]))
            _require_agreement(agreements[-1], config, unchecked)
        first = batches[0][:1].to(ranks.device)
        milliseconds = median_milliseconds(exported, first), median_milliseconds(graph, first)
    os.replace(unchecked, config.target)
    size = config.target.stat().st_size
    return Exported(config.target, size, seconds, signature(program, graph), tuple(agreements), milliseconds)


def check_sizes(config: ExportConfig, graph: DeployedDetector) -> list[tuple[int, int, int]]:
    """(images, height, width): those asked for, or three from the smallest valid one up."""
    least = smallest_side(graph.detector.config)
    usual = [(1, least + 63, least + 120), (2, least, 2 * least), (3, least + 97, least + 14)]
    for size in config.check_sizes or ():
        require_size("check_sizes", size[1:], graph)
    return list(config.check_sizes or usual)


def require_size(name: str, size: tuple[int, int], graph: DeployedDetector) -> None:
    """ConfigError for images below the range of the export."""
    least = smallest_side(graph.detector.config)
    require(min(size) >= least, name, f"a height and width of at least {least}, as this detector needs", list(size))


def image_sides(transforms: TransformConfig, least: int, say: Callable[[str], None]) -> dict[str, int | None]:
    """How images are resized for a file that takes no side below `least`: as in evaluation, or a bit larger."""
    side, longest = transforms.eval_side, transforms.max_side
    if side is not None and side < least:
        say(f"the file says eval_side: {least} instead of {side}, as it takes no smaller images")
        side = least
    return {"eval_side": side, "max_side": max(longest, least), "smallest_side": least}


def describe(
    config: ExportConfig, loaded: LoadedDetector, graph: DeployedDetector, say: Callable[[str], None]
) -> dict[str, Any]:
    """What travels with the file."""
    sides = image_sides(loaded.config.data.transforms, smallest_side(graph.detector.config), say)
    return {
        "format": config.format,
        "outputs": list(graph.output_names),
        "categories": to_mapping(loaded.categories),
        "preprocessing": {"colour": "RGB", "range": [0, 255], "dtype": "uint8", "normalisation": "inside"} | sides,
        "attention_backend": config.attention,
        "device": graph.mean.device.type,
        "model": to_mapping(loaded.config.model),
    }


def _require_agreement(agreement: Agreement, config: ExportConfig, unchecked: Path) -> None:
    """ExportError if it is beyond the tolerance."""
    if not agreement.worst <= config.tolerance:
        raise ExportError(
            f"{config.target}: not written: on images {agreement.shape} the file is {agreement.worst:.1e} from "
            f"PyTorch, beyond tolerance={config.tolerance:g}; it is left as {unchecked}"
        )


def signature(program: ExportedProgram, graph: DeployedDetector) -> tuple[str, ...]:
    """Input and outputs with their axes: names if they are dynamic."""
    inputs = [node.meta["val"] for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    by_name = {node.name: node.meta["val"] for node in program.graph.nodes if "val" in node.meta}
    outputs = [by_name[name] for name in program.graph_signature.user_outputs]
    batch, _, height, width = inputs[0].shape
    names = {str(batch): "batch", str(height): "height", str(width): "width"}
    labels = [f"input {INPUT}", *(f"output {name}" for name in graph.output_names)]
    return tuple(
        f"{label}: ({', '.join(names.get(str(side), str(side)) for side in x.shape)}) {str(x.dtype)[6:]}"
        for label, x in zip(labels, [*inputs, *outputs], strict=True)
    )


@torch.no_grad()
def median_milliseconds(function: ExportedFunction, images: Tensor) -> float:
    """Of REPEATS calls, after one to warm up."""
    function(images)
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        [x.cpu() for x in function(images)]  # waits for the device
        times.append(time.perf_counter() - start)
    return 1e3 * sorted(times)[REPEATS // 2]
