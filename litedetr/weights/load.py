"""From a state dict of the published code to a detector of ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from litedetr.models import Detector, build_detector
from litedetr.weights.errors import PublishedWeightsError, listed
from litedetr.weights.files import unwrap
from litedetr.weights.layout import read_layout
from litedetr.weights.renames import UNUSED, Rename, Rows, rename_table


def load_published(state_dict: Mapping[str, Any], num_high_levels: int | None) -> Detector:
    """The detector that a state dict of the published Lite-DETR or DINO code belongs to, on the CPU, to evaluate.

    state_dict: tensors by name, bare or wrapped as training writes them (`ema_model`, `model`, `module.`).
    num_high_levels: x of HxLy, which no name or shape shows; None for a full encoder (DINO).
    The detector has encoder.update `joint` or `full` and padding `published`; the class with logit i is the one with
    the raw category id i. PublishedWeightsError lists all names that fit nothing, are missing or have another shape.
    """
    state = unwrap(state_dict)
    layout = read_layout(state, num_high_levels)
    model = build_detector(layout.config, layout.num_classes)
    table = rename_table(model)
    sources = {name: _source(name, tuple(tensor.shape), table) for name, tensor in model.state_dict().items()}
    _check(state, list(sources.values()))
    model.load_state_dict({name: source.take(state) for name, source in sources.items()})
    return model.to_device(torch.device("cpu")).eval()


@dataclass(frozen=True)
class _Source:
    """Where a tensor of ours is taken from."""

    names: tuple[str, ...]  # of published tensors, equal ones
    rows: Rows | None
    shape: tuple[int, ...]  # of each published tensor, as a whole

    def take(self, state: Mapping[str, Tensor]) -> Tensor:
        tensor = state[self.names[0]]
        return tensor if self.rows is None else tensor[self.rows.first : self.rows.last]


def _source(name: str, shape: tuple[int, ...], table: list[Rename]) -> _Source:
    rename = next(rename for rename in table if name.startswith(rename.ours))
    names = tuple(published + name.removeprefix(rename.ours) for published in rename.published)
    return _Source(names, rename.rows, shape if rename.rows is None else (rename.rows.total, *shape[1:]))


def _check(state: Mapping[str, Tensor], sources: list[_Source]) -> None:
    """PublishedWeightsError unless `state` has all the sources, in shape, and nothing else."""
    expected = {name: source.shape for source in sources for name in source.names}
    missing = [name for name in expected if name not in state]
    unknown = [name for name in state if name not in expected and not UNUSED.fullmatch(name)]
    misfits = [
        f"{name} {tuple(state[name].shape)}, not {shape}"
        for name, shape in expected.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    copies = [] if missing or misfits else [(name, source.names[0]) for source in sources for name in source.names[1:]]
    unequal = [name for name, first in copies if not torch.equal(state[name], state[first])]
    problems = {
        "names that fit nothing": unknown,
        "missing": missing,
        "wrong shape": misfits,
        "heads that differ between decoder layers, which here share one": unequal,
    }
    found = [f"\n  {what}: {listed(names)}" for what, names in problems.items() if names]
    if found:
        raise PublishedWeightsError(f"not the weights of a published detector of this layout{''.join(found)}")
