"""Settings of scripts/flops.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from litedetr.engine.run_config import require_image_size
from litedetr.settings import require


@dataclass(frozen=True)
class FlopsConfig:
    """The settings of conf/flops.yaml beside the model's."""

    rows: Literal["auto", "paper", "this"]
    tables: tuple[int, ...] | None
    image_size: tuple[int, int]
    num_classes: int
    output: str

    def __post_init__(self) -> None:
        require_image_size(self.image_size)
        require(self.tables != (), "tables", "null or at least one number", self.tables)
        require(self.num_classes >= 1, "num_classes", "at least 1", self.num_classes)
