"""Settings of the report, as `name=value` on the command line, read without Hydra, which may not be installed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from litedetr.settings import ConfigError, Count, Flag, Maybe, Text, from_mapping, require, settings
from litedetr.tools.gpu_report.plan import STEPS


@settings()
class ReportConfig:
    """The settings of scripts/gpu_report.py."""

    budget: Maybe[Count] = None  # seconds for all steps; null: each takes up to its own limit
    rehearse: Flag = False  # every step at tiny sizes, on a CPU in Triton's interpreter if there is no GPU
    steps: Maybe[tuple[Text, ...]] = None  # names; null: all; []: none, only make the page from the rows that are there
    output: Text = "runs/gpu_report"  # the folder; each GPU has one of its own in it

    def __post_init__(self) -> None:
        names = [step.name for step in STEPS]
        unknown = [name for name in self.steps or () if name not in names]
        require(not unknown, "steps", f"null or some of {', '.join(names)}", unknown)

    @classmethod
    def from_arguments(cls, arguments: Sequence[str]) -> ReportConfig:
        """Raises ConfigError for an argument that is not `name=value`, an unknown setting, or a wrong value."""
        given: dict[str, Any] = {}
        for argument in arguments:
            name, equals, text = argument.partition("=")
            if not equals:
                raise ConfigError(f"expected settings as name=value, got {argument!r}")
            given[name] = _value(text)
        return from_mapping(cls, given)


def _value(text: str) -> Any:
    """A number, true, false, null, or [a,b]; anything else is text as it stands."""
    if text.startswith("[") and text.endswith("]"):
        return [_value(item.strip()) for item in text[1:-1].split(",") if item.strip()]
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # JSON's own, and what Python says of too many digits or brackets
        return text
