"""From a DetectorOutput and its targets to the training loss."""

from litedetr.losses.config import LossConfig
from litedetr.losses.criterion import Criterion, Losses

__all__ = ["Criterion", "LossConfig", "Losses"]
