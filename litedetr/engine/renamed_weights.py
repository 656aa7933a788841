"""Parts of the model that had another name once: an old checkpoint's tensors under today's names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")
RENAMED = {"encoder.layers.": "encoder.blocks.0.layers."}  # a full encoder's


def with_new_names(by_parameter: Mapping[str, T]) -> dict[str, T]:
    """What a checkpoint holds of each parameter or buffer, by today's names."""
    return {_new_name(name): value for name, value in by_parameter.items()}


def _new_name(name: str) -> str:
    for old, new in RENAMED.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name
