"""Which settings of a run differ from those of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from litedetr.engine.checkpoint import Checkpoint, OtherModelError
from litedetr.engine.run_config import RunConfig
from litedetr.settings import to_mapping

# Settings of a model that change nothing of what it computes.
SAME_MODEL = {
    f"model.{name}"
    for name in (
        "backbone.weights",
        "encoder.activation_checkpointing",
        "decoder.activation_checkpointing",
        "attention.backend",
    )
}


def changed_settings(checkpoint: Checkpoint, config: RunConfig) -> list[str]:
    """What differs from the checkpoint's configuration, `name: old -> new`, without trainer settings.

    Raises OtherModelError if the model itself differs: the weights would not mean the same.
    """
    lines = differences(checkpoint.full_config, to_mapping(config))
    model = [line for name, line in lines.items() if name.startswith("model.") and name not in SAME_MODEL]
    if model:
        what = "the checkpoint to continue has another model: take another run=... name, or its settings"
        raise OtherModelError(what, f"\n  settings that differ: {'; '.join(model)}", checkpoint.full_config["model"])
    return [line for name, line in lines.items() if not name.startswith("trainer.")]


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
    """The settings that differ, by name: `name: old -> new`."""
    old, new = flat_settings(old), flat_settings(new)
    names = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    return {name: f"{name}: {old.get(name)} -> {new.get(name)}" for name in names}


def flat_settings(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every setting of nested mappings by its path, `encoder.update`."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        flat |= flat_settings(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
