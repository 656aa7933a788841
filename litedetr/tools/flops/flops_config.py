"""Settings of scripts/flops.py."""

from __future__ import annotations

from typing import Literal

from litedetr.engine.run_config import ImageSize
from litedetr.settings import Count, Integer, Maybe, Some, Text, settings


@settings()
class FlopsConfig:
    """The settings of conf/flops.yaml beside the model's."""

    rows: Literal["auto", "paper", "this"]
    tables: Maybe[Some[Integer]]
    image_size: ImageSize
    num_classes: Count
    output: Text
