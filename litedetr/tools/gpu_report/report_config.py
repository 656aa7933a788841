"""Settings of scripts/gpu_report.py, read without Hydra, which may not be installed."""

from __future__ import annotations

from collections.abc import Sequence

from litedetr.settings import Count, Flag, Maybe, Text, from_mapping, require, settings
from litedetr.tools.gpu_report.plan import STEPS
from litedetr.tools.plain_settings import plain_settings


@settings()
class ReportConfig:
    """`name=value` on the command line."""

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
        return from_mapping(cls, plain_settings(arguments))
