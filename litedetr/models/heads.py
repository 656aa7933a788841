"""Class and box heads."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MLP(nn.Module):
    """Linear layers of the given widths with ReLU between them."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """W_n relu(... relu(W_1 x + b_1)) + b_n.

        x: (..., C) of the first width.
        Returns (..., C') of the last width.
        """
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class DetectionHead(nn.Module):
    """Class logits by `classes`, a linear layer, and boxes by `refine`.

    Class probabilities start at 0.01 (focal loss, Lin et al., 2017), boxes where their reference is.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.classes = nn.Linear(channels, num_classes)
        self.box = MLP(channels, channels, channels, 4)
        nn.init.constant_(self.classes.bias, -math.log(99))
        nn.init.zeros_(self.box.layers[-1].weight)
        nn.init.zeros_(self.box.layers[-1].bias)

    def refine(self, x: Tensor, reference_logit: Tensor) -> Tensor:
        """sigmoid(MLP(x) + reference_logit) (Deformable DETR, appendix A.4).

        x: (B, Q, C) features of the queries.
        reference_logit: (B, Q, 4) the boxes to refine, cxcywh in logit space.
        Returns boxes (B, Q, 4), cxcywh in [0, 1], at least in fp32.
        """
        dtype = torch.promote_types(x.dtype, torch.float32)  # half precision would move a box by pixels
        return (self.box(x).to(dtype) + reference_logit.to(dtype)).sigmoid()
