"""Files of the published code: read without running anything in them, and stripped of their wrapping."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from litedetr.paths import user_path
from litedetr.weights.errors import PublishedWeightsError

# The entries of a file that may hold its state dict. Averaged weights come first, as in our own checkpoints.
WRAPPERS = ("ema_model", "model")
MODULE = "module."  # what DistributedDataParallel puts before every name


def read_published(path: Path | str) -> dict[str, Tensor]:
    """The state dict of a file, on the CPU.

    Only tensors, plain values and the argparse.Namespace of the training options are read; a file that holds anything
    else is rejected, since reading it could run code. PublishedWeightsError names the file and what is wrong.
    """
    path = user_path(path)
    if not path.is_file():
        raise PublishedWeightsError(f"{path}: no such file")
    try:
        with torch.serialization.safe_globals([Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen types for a file that is damaged, unsafe or none of its own
        raise PublishedWeightsError(f"{path}: {_reason(error)}") from error
    try:
        return unwrap(content)
    except PublishedWeightsError as error:
        raise PublishedWeightsError(f"{path}: {error}") from error


def _reason(error: Exception) -> str:
    """Without torch's own words, which advise to read the file in the way that runs its code."""
    foreign = re.search(r"unsupported (?:global: )?GLOBAL ([\w.]+)", str(error), re.IGNORECASE)
    if foreign is None:
        return f"cannot be read: damaged, or no PyTorch file ({type(error).__name__})"
    return (
        f"rejected: it holds a {foreign[1]}, and reading more than tensors and plain values could run code; if you "
        "trust its origin, save only its state dict in a new file"
    )


def unwrap(content: Any) -> dict[str, Tensor]:
    """The state dict in `content`: the content itself, or its entry `ema_model` or `model`; without `module.`."""
    if not isinstance(content, Mapping):
        raise PublishedWeightsError(f"expected a state dict, got a {type(content).__name__}")
    state: Any = next((content[name] for name in WRAPPERS if isinstance(content.get(name), Mapping)), content)
    others = [str(name) for name, value in state.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if others or not state:
        expected = f"expected tensors by name, bare or under {' or '.join(map(repr, WRAPPERS))}"
        raise PublishedWeightsError(
            f"no state dict: {expected}; no tensors are: {', '.join(others[:5]) or 'no entries'}"
        )
    if all(name.startswith(MODULE) for name in state):
        return {name.removeprefix(MODULE): value for name, value in state.items()}
    return dict(state)
