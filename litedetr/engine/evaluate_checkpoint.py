"""Evaluate a checkpoint on a validation set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from litedetr.data import CocoDetection, DataConfig, DataError, build_eval_dataset
from litedetr.engine.checkpoint import LoadedDetector, checkpoint_file, load_detector
from litedetr.engine.detect import inference_copy
from litedetr.engine.distributed import join_ranks
from litedetr.engine.evaluation_loop import Evaluation, Evaluator
from litedetr.engine.loader import LoaderSettings, build_loader
from litedetr.engine.run_config import Device, GpuSettings, Precision
from litedetr.settings import ConfigError, Count, Maybe, Text, from_mapping, settings, to_mapping

OTHER_DATA = "data=coco data.root=<folder> evaluates on another one"


@settings()
class EvalConfig:
    """The settings of conf/eval.yaml, where they are described."""

    checkpoint: Text
    output: Maybe[Text] = None
    batch_size: Count = 8
    device: Device = "auto"
    precision: Precision = "fp32"
    gpu: GpuSettings = field(default_factory=GpuSettings)
    data: Maybe[dict[str, Any]] = None  # of a DataConfig; None: the checkpoint's
    transforms: Maybe[dict[str, Any]] = None  # of a TransformConfig; None: the checkpoint's

    @property
    def path(self) -> Path:
        return checkpoint_file(self.checkpoint)


def evaluate_checkpoint(config: EvalConfig, otherwise: str = OTHER_DATA) -> tuple[Evaluation | None, str]:
    """The evaluation (None on all ranks but the main one), and what was evaluated, in words.

    otherwise: advice for the ConfigError if the validation set of the checkpoint's run cannot be read.
    """
    loaded = load_detector(config.path)
    with join_ranks(config.device) as ranks:
        dataset = validation_set(config, loaded, otherwise)
        data = _data_config(config, loaded)
        settings = LoaderSettings(config.batch_size, data.num_workers, 0, data.prefetch)
        with build_loader(dataset, settings, ranks) as batches:
            model = inference_copy(loaded.model, ranks.device, config.precision)
            evaluation = Evaluator(dataset, batches, config.precision, ranks)(model)
    what = f"{config.path} on {len(dataset)} images of {dataset.annotations_path}"
    return evaluation, "\n".join([what, *dataset.notes])


def validation_set(config: EvalConfig, loaded: LoadedDetector, otherwise: str = OTHER_DATA) -> CocoDetection:
    """What `evaluate_checkpoint` evaluates on."""
    try:
        return build_eval_dataset(_data_config(config, loaded), loaded.config.seed, loaded.categories)
    except (ConfigError, DataError) as error:
        if config.data is not None:
            raise
        what = f"{config.path}: the validation set that it was trained beside cannot be read"
        raise ConfigError(f"{what} ({error}); {otherwise}") from error


def _data_config(config: EvalConfig, loaded: LoadedDetector) -> DataConfig:
    trained: Mapping[str, Any] = to_mapping(loaded.config.data)
    chosen = config.data or trained
    return from_mapping(DataConfig, {**chosen, "transforms": config.transforms or trained["transforms"]}, "data")
