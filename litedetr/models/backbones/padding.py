"""Keeping padding out of convolutions and norms, so that an image's features do not depend on its batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from litedetr.pixels import inside
from litedetr.structures import ImageBatch

Norm = Callable[[int], nn.Module]  # from a number of channels


@dataclass(frozen=True)
class PaddingMask:
    """Which pixels of a map (B, C, H, W) are image."""

    sizes: Tensor  # (B, 2), the valid (height, width)

    @classmethod
    def of(cls, images: ImageBatch) -> PaddingMask | None:
        """None if no image is padded; then nothing is masked."""
        return cls(images.sizes) if images.padded else None

    def halved(self) -> PaddingMask:
        """The mask after a stride-2 convolution: the valid size is rounded up, as the size of the map is."""
        return PaddingMask((self.sizes + 1) // 2)

    def valid(self, height: int, width: int) -> Tensor:
        """(B, 1, H, W) bool, True on the image."""
        return inside(self.sizes, height, width)


@dataclass(frozen=True)
class FeatureMap:
    """One level of a backbone."""

    values: Tensor  # (B, C, H, W)
    stride: int  # pixels of the image from one cell to the next
    mask: PaddingMask | None  # None: nothing is padded, or the backbone does not tell padding from image


def zero_padding(x: Tensor, mask: PaddingMask | None) -> Tensor:
    """x (B, C, H, W) with zeros on padding, which a convolution also sees beyond the edge of an unpadded image."""
    return x if mask is None else x.masked_fill(~mask.valid(*x.shape[-2:]), 0)


class MaskedGroupNorm(nn.GroupNorm):
    """Group norm whose statistics leave padding out. Wu & He, 2018.

    In single precision at least, as autocast has torch's own: fp16 cannot hold the squares of large values.
    """

    def forward(self, x: Tensor, mask: PaddingMask | None = None) -> Tensor:
        """(x - mean) / sqrt(variance + eps) * weight + bias, by groups of channels of one image's valid pixels.

        x: (B, C, H, W).
        mask: which pixels are image; None: all.
        Returns (B, C, H, W), with a mask at least in fp32; on padding its values mean nothing.
        """
        if mask is None:
            return super().forward(x)
        x, valid = x.to(torch.promote_types(x.dtype, torch.float32)), mask.valid(*x.shape[-2:])
        grouped = zero_padding(x, mask).unflatten(1, (self.num_groups, -1))  # (B, G, C / G, H, W)
        count = valid.sum((-2, -1), keepdim=True).unsqueeze(1) * grouped.shape[2]
        mean = grouped.sum((2, 3, 4), keepdim=True) / count
        centred = (grouped - mean) * valid.unsqueeze(1)
        variance = centred.square().sum((2, 3, 4), keepdim=True) / count
        normed = (centred * torch.rsqrt(variance + self.eps)).flatten(1, 2)
        return normed * self.weight.view(-1, 1, 1) + self.bias.view(-1, 1, 1)


def group_norm(channels: int) -> nn.Module:
    """Eight channels a group."""
    return MaskedGroupNorm(channels // 8, channels)


class FrozenBatchNorm(nn.Module):
    """Batch norm that is not trained: a factor and a shift for each channel; state-dict names as torch's."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def folded(self, conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
        """Weight and bias of the convolution that does `conv`, which has no bias, and then the norm."""
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        return conv.weight * scale.view(-1, 1, 1, 1), self.bias - self.running_mean * scale

    def after(self, conv: nn.Conv2d, x: Tensor) -> Tensor:
        """The norm of conv(x), within the convolution: no pass over the map of its own, and nothing to keep for one.

        Folded on every call, since training moves conv.weight; `fold_frozen_norms` does it once.
        """
        weight, bias = self.folded(conv)
        return F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def convolve(x: Tensor, conv: nn.Conv2d, norm: nn.Module, mask: PaddingMask | None) -> Tensor:
    """norm(conv(x)) for x (B, C, H, W).

    mask: of the result, since a stride makes it smaller than x.
    """
    return norm.after(conv, x) if isinstance(norm, FrozenBatchNorm) else norm(conv(x), mask)
