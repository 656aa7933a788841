"""Evaluate a checkpoint on a validation set: COCO's twelve numbers, AP by class, detections.json.

python scripts/eval.py checkpoint=runs/foo/best.pt
python scripts/eval.py checkpoint=runs/foo/best.pt data=coco data.root=<coco>
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from _common import CONFIG_FOLDER, as_mapping, clear_errors
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from litedetr.config import from_mapping, require, to_mapping
from litedetr.data import DataConfig, build_eval_dataset
from litedetr.engine import (
    Evaluator,
    LoaderSettings,
    class_table,
    evaluation_batches,
    join_ranks,
    load_detector,
    summary_table,
    use_all_cores,
    write_detections,
)
from litedetr.engine.config import Device, Precision


@dataclass(frozen=True)
class EvalConfig:
    """The settings of conf/eval.yaml, where they are described."""

    checkpoint: str
    output: str | None
    batch_size: int
    device: Device
    precision: Precision

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, "batch_size", "at least 1", self.batch_size)


@hydra.main(version_base=None, config_path=CONFIG_FOLDER, config_name="eval")
@clear_errors
def main(cfg: DictConfig) -> None:
    settings = as_mapping(cfg)
    chosen_data = settings.pop("data", None)
    config = from_mapping(EvalConfig, settings)
    use_all_cores()
    path = Path(config.checkpoint)
    path = path / "best.pt" if path.is_dir() else path
    loaded = load_detector(path)
    data = data_config(chosen_data, loaded.config.data)
    with join_ranks(config.device) as ranks:
        dataset = build_eval_dataset(data, loaded.config.seed, loaded.categories)
        batches = evaluation_batches(dataset, LoaderSettings(config.batch_size, data.num_workers, 0), ranks)
        evaluation = Evaluator(dataset, batches, config.precision, ranks)(loaded.model.to(ranks.device))
    if evaluation is not None:
        output = Path(config.output or path.parent)
        output.mkdir(parents=True, exist_ok=True)
        write_detections(output / "detections.json", evaluation.detections)
        print(f"{path} on {len(dataset)} images of {dataset.annotations_path}\n")
        print(summary_table(evaluation.scores), class_table(evaluation.scores), sep="\n\n")
        print(f"\ndetections: {output / 'detections.json'}")


def data_config(chosen: dict[str, Any] | None, trained: DataConfig) -> DataConfig:
    """The chosen data, or the checkpoint's. Images are resized as in training unless transforms are chosen, too."""
    if not chosen or chosen.keys() == {"transforms"}:
        chosen = to_mapping(trained) | (chosen or {})
    overrides = HydraConfig.get().overrides.task
    if not any(override.startswith(("transforms=", "data.transforms")) for override in overrides):
        chosen = chosen | {"transforms": to_mapping(trained.transforms)}
    return from_mapping(DataConfig, chosen, "data")


if __name__ == "__main__":
    main()
