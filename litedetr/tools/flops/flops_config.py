"""Settings of scripts/flops.py."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from litedetr.engine.run_config import ImageSize
from litedetr.settings import Count, Integer, Maybe, Text, settings


@settings()
class FlopsConfig:
    """The settings of conf/flops.yaml beside the model's."""

    rows: Literal["auto", "paper", "this"]
    tables: Maybe[Annotated[tuple[Integer, ...], Field(min_length=1)]]
    image_size: ImageSize
    num_classes: Count
    output: Text
