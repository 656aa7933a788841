"""Settings that had another name once: what an error says of it, and an old run's settings under today's names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LENGTH = "schedule.max_epochs, or schedule.max_steps for optimiser steps"
RENAMED = {
    "schedule.length": _LENGTH,
    "schedule.unit": _LENGTH,
    "schedule.drops": "schedule.milestones",
    "schedule.drop_factor": "schedule.gamma",
    "schedule.warmup": "schedule.warmup_steps",
    "schedule.accumulate": "schedule.grad_accum_steps",
}


def with_new_names(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings of a run, a RunConfig as a mapping, with today's names and the same meaning."""
    data = config.get("data")
    if isinstance(data, Mapping) and data.get("name") == "coco":  # reads no data.shapes, whose defaults were others
        config = {**config, "data": {name: value for name, value in data.items() if name != "shapes"}}
    if not isinstance(config.get("schedule"), Mapping):
        return config
    schedule = dict(config["schedule"])
    unit = schedule.pop("unit", "epochs")
    if "length" in schedule:
        length = schedule.pop("length")
        schedule["max_epochs"], schedule["max_steps"] = (length, None) if unit == "epochs" else (None, length)
    paths = {name: RENAMED.get(f"schedule.{name}", name) for name in schedule}
    return {**config, "schedule": {path.removeprefix("schedule."): schedule[name] for name, path in paths.items()}}
