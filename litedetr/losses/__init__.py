"""From a DetectorOutput and its targets to the training loss."""

from litedetr.losses.criterion import Criterion, Losses
from litedetr.losses.loss_config import LossConfig
