"""Lite DETR: an interleaved multi-scale encoder with key-aware deformable attention, and a DINO decoder.

detector = litedetr.load("runs/foo")
detections = detector.predict(images)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from litedetr.inference.predictor import Predictor


def load(
    checkpoint: str | Path,
    device: str | int | torch.device = "auto",
    precision: str | torch.dtype = "fp32",
    cuda_graphs: bool = False,
) -> Predictor:
    """A trained detector: `load(checkpoint).predict(images)`.

    checkpoint: a file, or a run folder, whose best.pt is taken. device: auto, cpu, cuda or cuda:<n>, as text or a
    torch.device, or the n of a GPU. precision: fp32, bf16 or fp16, or the dtype of one.
    cuda_graphs: on a GPU, record what it does for each size of batch and replay it without Python in between; for
    images of few sizes, since recording a size takes several forward passes.
    A CPU that other programs use too is used better after `litedetr.threads.limit_spinning()`, to be called before
    anything imports torch; the scripts do it.
    Raises CheckpointError where the file is missing, damaged or not this project's, ConfigError where device,
    precision or CUDA graphs cannot be had.
    """
    from litedetr.inference.predictor import Predictor  # only here: the package's parts import the package

    return Predictor.load(checkpoint, device, precision, cuda_graphs)


__all__ = ["load"]
