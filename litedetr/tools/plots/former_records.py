"""Records of training steps that earlier versions wrote, in today's form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FORMER_TERMS = {"class": "classes", "l1": "l1", "giou": "giou"}
BRANCHES = ("proposals", "denoising", "one_to_many")


def with_loss_parts(record: Mapping[str, Any]) -> dict[str, Any]:
    """With `loss_parts` in place of numbers such as `class_0`, `l1` (of the last layer) or `giou_denoising_2`."""
    if "loss_parts" in record:
        return dict(record)
    layers: dict[tuple[str, str], list[tuple[float, float]]] = {}  # by branch and term: (layer, value)
    kept = {}
    for name, value in record.items():
        term, _, where = name.partition("_")
        if term not in FORMER_TERMS:
            kept[name] = value
            continue
        branch = next((branch for branch in BRANCHES if where.startswith(branch)), "decoder")
        number = where.removeprefix(branch).lstrip("_")
        layer = int(number) if number else float("inf")  # the last one
        layers.setdefault((branch, FORMER_TERMS[term]), []).append((layer, value))
    parts: dict[str, dict[str, list[float]]] = {}
    for (branch, term), found in layers.items():
        parts.setdefault(branch, {})[term] = [value for _, value in sorted(found)]
    return kept | ({"loss_parts": parts} if parts else {})
