"""Which settings of conf/train.yaml make the model of a checkpoint: advice for a user who gave others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf.errors import OmegaConfBaseException

from litedetr.cli.compose import CONFIG_FOLDER, compose, given_overrides
from litedetr.engine.changed_settings import SAME_MODEL, flat_settings
from litedetr.engine.checkpoint import OtherModelError
from litedetr.engine.run_config import ENCODER_SHORTHANDS, detector_config
from litedetr.settings import ConfigError, to_mapping

# Groups, widest first; another choice is tried if one of these settings differs.
GROUPS = {
    "model": ("encoder.update", "query_selection.kind", "decoder.heads", "hybrid.num_repeats"),
    "size": ("neck.channels", "attention.num_heads", "query_selection.num_queries", "decoder.num_layers"),
    "backbone": ("backbone.name", "backbone.norm", "backbone.width"),
    "encoder": ("encoder.update", "encoder.num_high_levels"),
    "attention": ("attention.encoder", "attention.decoder"),
}
SHORT = {f"encoder.{setting}": letter for letter, setting in ENCODER_SHORTHANDS.items()}


@contextmanager
def advice_on_other_model() -> Iterator[None]:
    """An error about a checkpoint of another model says what to add to the command line."""
    try:
        yield
    except OtherModelError as error:
        raise error.advising(" ".join(settings_of_checkpoint(error.model, given_overrides()))) from error


def settings_of_checkpoint(model: Mapping[str, Any], given: Sequence[str]) -> list[str]:
    """What turns the model of the overrides `given` into `model`, a DetectorConfig as a mapping: groups that bring it
    nearer, then single settings.
    """
    chosen: dict[str, str] = {}
    missing = _missing(model, given, chosen)
    for group, decisive in GROUPS.items():
        if not missing.keys() & set(decisive):
            continue
        for path in sorted((Path(CONFIG_FOLDER) / group).glob("*.yaml")):
            trial = chosen | {group: path.stem}
            left = _missing(model, given, trial)
            if left is not None and len(left) < len(missing):
                chosen, missing = trial, left
    groups = [f"{group}={choice}" for group, choice in chosen.items()]
    return groups + [f"{SHORT.get(name, name)}={_as_yaml(value)}" for name, value in missing.items()]


def _missing(model: Mapping[str, Any], given: Sequence[str], chosen: Mapping[str, str]) -> dict[str, Any] | None:
    """Settings of `model` that differ with the groups `chosen`; None if these groups do not go together."""
    kept = [text for text in given if text.partition("=")[0] not in chosen]
    try:
        composed = detector_config(compose("train", [*kept, *map("=".join, chosen.items())]))
    except (ConfigError, OmegaConfBaseException):
        return None
    mine, wanted = flat_settings(to_mapping(composed)), flat_settings(model)
    return {n: value for n, value in wanted.items() if mine.get(n) != value and f"model.{n}" not in SAME_MODEL}


def _as_yaml(value: object) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
