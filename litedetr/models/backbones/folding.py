"""Frozen norms put into their convolutions once, for a model that only detects."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from litedetr.models.backbones.padding import FrozenBatchNorm, PaddingMask


class FoldedNorm(nn.Module):
    """Replaces a norm that has become part of its convolution."""

    def forward(self, x: Tensor, mask: PaddingMask | None = None) -> Tensor:
        """Nothing: the convolution has done it.

        x: (B, C, H, W).
        mask: as other norms take it; not used.
        Returns x.
        """
        return x


def fold_frozen_norms(model: nn.Module) -> None:
    """Give each convolution the factor and shift of the FrozenBatchNorm behind it, in place, and drop the norm.

    The result of `model` keeps its bits. Its state dict has other names then (a bias for each convolution, no norms):
    weights of the unfolded model are rejected rather than read wrongly. So fold a copy of a model that is saved.
    The norm of a convolution is the child of a module that follows it.
    """
    for module in list(model.modules()):
        for (_, conv), (name, norm) in pairwise(list(module.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, FrozenBatchNorm):
                weight, bias = norm.folded(conv)
                conv.weight, conv.bias = (nn.Parameter(x.detach(), requires_grad=False) for x in (weight, bias))
                setattr(module, name, FoldedNorm())
