"""Beginning a run with the weights of another one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from litedetr.data import Categories
from litedetr.engine.changed_settings import SAME_MODEL, differences
from litedetr.engine.checkpoint import CheckpointError, OtherModelError, checkpoint_file, load_checkpoint
from litedetr.models import Detector
from litedetr.settings import to_mapping

LABEL_TABLE = re.compile(r"denoising\.labels\.")
# Whose rows are classes: what another number of classes cannot take over.
CLASS_PARTS = re.compile(r"(query_selection\.head|decoder\.head|decoder\.heads\.\d+)\.classes\.|denoising\.labels\.")
NUM_SHOWN = 3


@dataclass(frozen=True)
class Initialisation:
    """What became of a checkpoint's weights."""

    taken: int  # how many tensors came from the checkpoint
    left: tuple[str, ...]  # names of the model's that kept their initial values
    notes: tuple[str, ...]  # what else the user should know, a line each


def initialise_from(model: Detector, categories: Categories, path: Path | str) -> Initialisation:
    """Start from the weights of a checkpoint; with another number of classes, class heads and label table stay as they
    are, and so does the label table if one of the two has none (no denoising).

    path: a file, or a run folder, whose best.pt is taken. categories: those that the model is going to learn. Anything
    else that does not fit is a CheckpointError with the tensors' names, an OtherModelError if settings differ.
    """
    path = checkpoint_file(path)
    try:
        checkpoint = load_checkpoint(path)
    except CheckpointError as error:
        raise CheckpointError(f"trainer.init_from: {error}") from error
    weights, own = checkpoint.weights, model.state_dict()
    differing = differences(checkpoint.full_config["model"], to_mapping(model.config))
    changed = [line for name, line in differing.items() if f"model.{name}" not in SAME_MODEL]
    free = LABEL_TABLE if len(checkpoint.categories) == len(categories) else CLASS_PARTS
    misfits = _misfits(weights, own, free)
    if misfits and changed:
        details = f"\n  settings that differ: {_some(changed, '; ')}{misfits}"
        model_there = checkpoint.full_config["model"]
        raise OtherModelError(f"trainer.init_from: {path} holds weights of another model", details, model_there)
    if misfits:
        raise CheckpointError(f"trainer.init_from: {path} does not hold the weights of this model{misfits}")
    fitting = {name: value for name, value in weights.items() if name in own and own[name].shape == value.shape}
    model.load_state_dict(fitting, strict=False)
    left = tuple(name for name in own if name not in fitting)
    notes = [f"another model setting than there: {line}" for line in changed]
    if len(checkpoint.categories) == len(categories) and checkpoint.categories != categories:
        notes.append("as many classes as there, but others: the class heads start as those of the other classes")
    return Initialisation(len(fitting), left, tuple(notes))


def _misfits(weights: dict[str, Tensor], own: dict[str, Tensor], free: re.Pattern[str]) -> str:
    """Lines about the tensors that are not on both sides, or of another shape, but for those that begin with `free`."""
    names = [name for name in own | weights if not free.match(name)]
    problems = {
        "only in the model": [name for name in names if name not in weights],
        "only in the checkpoint": [name for name in names if name not in own],
        "of another shape": [
            f"{name} {tuple(weights[name].shape)}, not {tuple(own[name].shape)}"
            for name in names
            if name in weights and name in own and weights[name].shape != own[name].shape
        ],
    }
    return "".join(f"\n  {what}: {_some(tensors)}" for what, tensors in problems.items() if tensors)


def _some(names: list[str], separator: str = ", ") -> str:
    shown = separator.join(names[:NUM_SHOWN])
    return f"{shown} and {len(names) - NUM_SHOWN} more" if len(names) > NUM_SHOWN else shown
