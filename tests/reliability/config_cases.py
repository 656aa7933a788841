"""The scripts' settings as they are composed, and what can be wrong with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hypothesis import strategies as st
from omegaconf import OmegaConf
from visualize import DRAWINGS

from litedetr.data import DataConfig
from litedetr.engine.evaluate_checkpoint import EvalConfig
from litedetr.engine.run_config import RunConfig, beside_model, detector_config
from litedetr.inference.predict_files import PredictConfig
from litedetr.models import DetectorConfig
from litedetr.settings import from_mapping
from litedetr.tools.autotune import AutotuneConfig
from litedetr.tools.benchmark.benchmark_config import BenchmarkConfig
from litedetr.tools.export.export_config import ExportConfig
from litedetr.tools.feeding import FeedingConfig
from litedetr.tools.flops.count import FlopsConfig
from litedetr.tools.memory import MemoryConfig, StepConfig

CONF = Path(__file__).parents[2] / "conf"
REMOVED = object()
TEXTS = ["", " ", "x", "nan", "1e-4", "../x", "transformers:none"]
FLOATS = [math.nan, math.inf, -math.inf, -0.5, 0.5, 1.0, 1.5, -1e300, 1e300, 1e-300]
INTEGERS = [-1, 0, 1, 2, 3, 7, 10**5, 2**31, 2**63, -(2**63) - 1, 10**400]
LISTS = [[], [None], [""], ["x", "x"], [0], [-1, 5], [5, 3], [0.9, math.nan], [[1]], [2**40, 2**40]]
VALUES = [None, True, False, *TEXTS, *FLOATS, *INTEGERS, *LISTS, {}, {"x": 1}, {1: None}, REMOVED]


@dataclass(frozen=True)
class Source:
    """A composed configuration: of which script, with which overrides, and what reads it."""

    script: str
    overrides: tuple[str, ...]
    read: Callable[[Mapping[str, Any]], object]

    def __str__(self) -> str:
        return " ".join((self.script, *self.overrides))

    @property
    def settings(self) -> dict[str, Any]:
        return composed(self.script, self.overrides)

    def read_with(self, changes: Iterable[Change]) -> object:
        """What the settings become, with the changes; ConfigError where they cannot work."""
        mapping = deepcopy(self.settings)
        for change in changes:
            change.apply(mapping)
        return self.read(mapping)


@dataclass(frozen=True)
class Change:
    """A setting of another value, taken away, or one that nobody knows."""

    path: tuple[str, ...]
    value: Any

    def apply(self, mapping: dict[str, Any]) -> None:
        *sections, name = self.path
        for section in sections:
            if not isinstance(mapping, dict) or section not in mapping:
                return  # an earlier change took it away
            mapping = mapping[section]
        if isinstance(mapping, dict):
            mapping.pop(name, None)
            if self.value is not REMOVED:
                mapping[name] = self.value


@cache
def composed(script: str, overrides: tuple[str, ...]) -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base=None):
        return OmegaConf.to_container(compose(script, list(overrides)), resolve=True)


def paths(mapping: Mapping[str, Any], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Of every section and every setting, and of an unknown one at every level."""
    yield (*prefix, "unknown")
    for name, value in mapping.items():
        yield (*prefix, name)
        if isinstance(value, dict):
            yield from paths(value, (*prefix, name))


def any_value() -> st.SearchStrategy:
    """Of any kind, often one of those known to be awkward."""
    scalars = st.one_of(st.integers(-2, 300), st.integers(), st.floats(), st.text(max_size=3), st.booleans(), st.none())
    return st.one_of(st.sampled_from(VALUES), scalars, st.lists(scalars, max_size=3))


def read_evaluation(mapping: Mapping[str, Any]) -> object:
    """As scripts/eval.py, which reads its data once the checkpoint is there."""
    config = from_mapping(EvalConfig, mapping)
    return config.data and from_mapping(DataConfig, config.data, "data")


def model_beside(*classes: type) -> Callable[[Mapping[str, Any]], DetectorConfig]:
    def read(mapping: Mapping[str, Any]) -> DetectorConfig:
        beside_model(mapping, *classes)
        return detector_config(mapping)

    return read


def strict(cls: type) -> Callable[[Mapping[str, Any]], object]:
    return partial(from_mapping, cls)


def drawing(name: str, *overrides: str) -> Source:
    return Source("visualize", (f"draw={name}", *overrides), strict(DRAWINGS[name][0]))


CHECKPOINT = "checkpoint=best.pt"
SYSTEMS = ("lite_dino", "dino_5scale", "lite_deformable_detr", "h_detr")
SOURCES = [
    *(Source("train", (f"model={name}",), RunConfig.from_settings) for name in SYSTEMS),
    Source("train", ("experiment=finetune", "data.root=coco"), RunConfig.from_settings),
    Source("eval", (CHECKPOINT, "data=coco", "data.root=coco"), read_evaluation),
    Source("predict", (CHECKPOINT, "source=photos"), strict(PredictConfig)),
    Source("export", (CHECKPOINT, "check_sizes=[[1,64,64]]"), strict(ExportConfig)),
    Source("benchmark", (), strict(BenchmarkConfig)),
    Source("feeding", (), strict(FeedingConfig)),
    Source("memory", ("size=small",), model_beside(MemoryConfig, StepConfig)),
    Source("flops", ("tables=[1]",), model_beside(FlopsConfig)),
    Source("autotune", (), model_beside(AutotuneConfig)),
    drawing("attention", CHECKPOINT, "image=photo.jpg"),
    drawing("training", "runs=[runs/foo]"),
    drawing("scores", CHECKPOINT),
]
