"""From a DetectorOutput and its targets to the training loss."""

from litedetr.losses.criterion import Criterion
from litedetr.losses.loss_config import LossConfig
from litedetr.losses.parts import Branch, Losses, LossPart
