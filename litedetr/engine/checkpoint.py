"""Checkpoints: one file that holds all that a run needs to go on, or a detector to be used. Never half written."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict
from torch import Tensor

from litedetr.data import Categories
from litedetr.engine import renamed_weights
from litedetr.engine.run_config import RunConfig
from litedetr.faults.files import replacing
from litedetr.models import Backend, Detector, build_detector
from litedetr.paths import user_path
from litedetr.renamed_settings import with_new_names
from litedetr.settings import ConfigError, Integer, Maybe, Number, from_mapping, require, settings, to_mapping

FORMAT = "litedetr checkpoint"
VERSION = 1


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, foreign or does not fit; the message names the file and what to do."""


class OtherModelError(CheckpointError):
    """A checkpoint whose model has other settings than the one that its weights are wanted for.

    model: its own settings, a DetectorConfig as a mapping.
    """

    def __init__(self, what: str, details: str, model: Mapping[str, Any], advice: str = "") -> None:
        super().__init__(what + advice + details)
        self.model = model
        self._parts = what, details

    def advising(self, settings: str) -> OtherModelError:
        """The same with the settings that fit, before the details."""
        return OtherModelError(*self._parts, self.model, f"; settings that fit it: {settings}")


@settings("progress")
class Progress:
    """Where a run stands."""

    step: Integer = 0  # optimiser steps done
    evaluated_step: Maybe[Integer] = 0  # the last step that was evaluated; None: evaluate these weights once more
    best_score: Maybe[Number] = None  # best validation AP so far; None: none yet, or undefined for want of objects

    def is_best(self, score: float) -> bool:
        """Whether weights of AP `score` are the best so far. The latest count as the best if AP is undefined (NaN)."""
        return self.best_score is None or math.isnan(score) or score > self.best_score

    def includes(self, kind: str, step: int) -> bool:
        """Whether a record of metrics.jsonl, `kind` train or evaluation, was written up to here."""
        if kind == "train":
            return step <= self.step
        return step < self.step if self.evaluated_step is None else step <= self.evaluated_step


@dataclass(frozen=True)
class Checkpoint:
    """Plain values and tensors only, so that it loads without running code."""

    config: dict[str, Any]  # a RunConfig as a mapping
    categories: Categories
    model: dict[str, Tensor]  # the weights that are trained
    ema: dict[str, Tensor] | None  # their moving average; None without averaging
    optimizer: dict[str, dict[str, Any]]  # moments by parameter name
    scaler: dict[str, Any]  # state of the fp16 gradient scaler; empty otherwise
    progress: Progress
    steps_per_epoch: Integer
    __pydantic_config__ = ConfigDict(arbitrary_types_allowed=True)  # tensors

    def __post_init__(self) -> None:
        model = self.config.get("model")
        require(isinstance(model, Mapping), "config.model", "the settings of a detector", model)

    @property
    def full_config(self) -> dict[str, Any]:
        """`config`, to compare with another one: settings that are younger than the checkpoint have their defaults."""
        try:
            return to_mapping(from_mapping(RunConfig, self.config))
        except ConfigError:  # some setting exists no more; a comparison shows it
            return self.config

    @property
    def weights(self) -> dict[str, Tensor]:
        """What to use the detector with: the averaged weights if there are any."""
        return self.model if self.ema is None else self.ema


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Replace `path` in one step; StorageError if it cannot be written; then the old file stays."""
    content = {field.name: getattr(checkpoint, field.name) for field in fields(checkpoint)}
    content |= {"progress": to_mapping(checkpoint.progress), "categories": to_mapping(checkpoint.categories)}
    content |= {"format": FORMAT, "version": VERSION, "torch_version": str(torch.__version__)}
    with replacing(path, _num_bytes(content)) as file:
        torch.save(content, file)


def _num_bytes(content: object) -> int:
    """Of all tensors."""
    if isinstance(content, Tensor):
        return content.nbytes
    return sum(map(_num_bytes, content.values())) if isinstance(content, Mapping) else 0


def checkpoint_file(path: Path | str) -> Path:
    """The checkpoint that `path` means: of a run folder, its best.pt."""
    path = user_path(path)
    return path / "best.pt" if path.is_dir() else path


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Read a checkpoint to the CPU; CheckpointError if that is not possible."""
    path = user_path(path)
    content = _content(path)
    known = {field.name: content[field.name] for field in fields(Checkpoint) if field.name in content}
    if isinstance(known.get("config"), Mapping):
        known["config"] = with_new_names(known["config"])
    try:
        checkpoint = from_mapping(Checkpoint, known)
    except ValueError as error:
        what = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: not a whole checkpoint; take another one ({what})") from error
    return replace(
        checkpoint,
        model=renamed_weights.with_new_names(checkpoint.model),
        ema=None if checkpoint.ema is None else renamed_weights.with_new_names(checkpoint.ema),
        optimizer=renamed_weights.with_new_names(checkpoint.optimizer),
    )


def load_progress(path: Path) -> Progress:
    """Where the run of a checkpoint stands; reads no tensors, and does not see whether they are damaged."""
    return from_mapping(Progress, _content(path, tensors=False).get("progress"), "progress")


def _content(path: Path, tensors: bool = True) -> Mapping[str, Any]:
    """What the file holds; CheckpointError if it is not a checkpoint of ours. Without `tensors` they are not read."""
    if not path.is_file():
        last = path.with_name("last.pt")
        advice = "a run folder holds last.pt and best.pt"
        if path.name == "best.pt" and last.is_file():
            advice = f"the run was not evaluated yet; {last} has its latest weights"
        raise CheckpointError(f"{path}: no such checkpoint; {advice}")
    try:
        if tensors:
            _check_sums(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=not tensors)
    except Exception as error:  # torch raises half a dozen types for a damaged file
        reason = str(error).split(". ")[0].splitlines()[0] if str(error) else type(error).__name__
        advice = "it is damaged or no PyTorch file; take the run's other checkpoint (last.pt, best.pt)"
        raise CheckpointError(f"{path}: cannot be read: {advice} ({reason})") from error
    if not isinstance(content, Mapping) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a checkpoint of this project; it must come from scripts/train.py")
    version = content.get("version")
    if version != VERSION:
        raise CheckpointError(f"{path}: has format version {version}, this code reads version {VERSION}")
    return content


def _check_sums(path: Path) -> None:
    """ValueError if a byte is not what was written: torch.load takes other weights for the saved ones."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"the checksum of {damaged} is wrong")


@dataclass(frozen=True)
class LoadedDetector:
    """A trained detector in evaluation mode, its classes, and the configuration it was trained with."""

    model: Detector
    categories: Categories
    config: RunConfig


def load_detector(path: Path | str, backend: Backend | None = None) -> LoadedDetector:
    """The detector of a checkpoint, on the CPU; with averaged weights if there are any.

    backend: what computes its attentions; None: what the checkpoint says. CheckpointError says what is wrong with the
    file, ConfigError that there is no such backend.
    """
    checkpoint = load_checkpoint(path)
    try:
        config = from_mapping(RunConfig, checkpoint.config)
    except ConfigError as error:
        raise CheckpointError(f"{path}: its configuration does not fit this version of the code: {error}") from error
    attention = config.model.attention if backend is None else replace(config.model.attention, backend=backend)
    model = build_detector(replace(config.model, attention=attention), len(checkpoint.categories))
    load_weights(model, checkpoint.weights, path)
    return LoadedDetector(model.to_device(torch.device("cpu")).eval(), checkpoint.categories, config)


def load_weights(model: torch.nn.Module, weights: dict[str, Tensor], path: Path | str) -> None:
    """Load all of `weights`, all of `model`; CheckpointError if they do not fit."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: its weights do not fit the model: {error}") from error
