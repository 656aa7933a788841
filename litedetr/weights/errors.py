"""The one error of published weights that cannot be used."""

from __future__ import annotations

from collections.abc import Sequence

NUM_SHOWN = 20


class PublishedWeightsError(ValueError):
    """A file or state dict that is damaged, unsafe, or not of the published code; the message names what is wrong."""


def listed(names: Sequence[str]) -> str:
    """The names, of very many only the first."""
    shown = ", ".join(names[:NUM_SHOWN])
    return f"{shown} and {len(names) - NUM_SHOWN} more" if len(names) > NUM_SHOWN else shown
