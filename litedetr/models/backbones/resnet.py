"""ResNet-18/34/50/101 (He et al., 2016) with torchvision's parameter names, so that its ImageNet files load."""

from __future__ import annotations

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
from litedetr.structures import ImageBatch


def conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)


class Shortcut(nn.ModuleList):
    """1x1 convolution and norm for a block that changes the shape; torchvision calls them downsample.0 and .1."""

    def forward(self, x: Tensor, mask: PaddingMask | None) -> Tensor:
        """norm(conv(x)).

        x: (B, C_in, H, W).
        mask: of the result; None: nothing is padded.
        Returns (B, C_out, H', W').
        """
        return convolve(x, *self, mask)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.stride = stride
        self.conv1, self.bn1 = conv(in_channels, channels, 3, stride), norm(channels)
        self.conv2, self.bn2 = conv(channels, channels, 3), norm(channels)
        self.downsample = _shortcut(in_channels, channels, stride, norm)

    def forward(self, x: Tensor, mask: PaddingMask | None) -> Tensor:
        """relu(norm(conv(relu(norm(conv(x))))) + shortcut(x)) (He et al., 2016, Fig. 5, left).

        x: (B, C_in, H, W).
        mask: of x; None: nothing is padded.
        Returns (B, C_out, H', W').
        """
        after = mask.halved() if mask and self.stride == 2 else mask
        shortcut = x if self.downsample is None else self.downsample(x, after)
        x = F.relu_(convolve(zero_padding(x, mask), self.conv1, self.bn1, after))
        x = convolve(zero_padding(x, after), self.conv2, self.bn2, after)
        return F.relu_(x.add_(shortcut))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions; the stride sits in the 3x3 one, as in torchvision."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.stride = stride
        out_channels = channels * self.expansion
        self.conv1, self.bn1 = conv(in_channels, channels, 1), norm(channels)
        self.conv2, self.bn2 = conv(channels, channels, 3, stride), norm(channels)
        self.conv3, self.bn3 = conv(channels, out_channels, 1), norm(out_channels)
        self.downsample = _shortcut(in_channels, out_channels, stride, norm)

    def forward(self, x: Tensor, mask: PaddingMask | None) -> Tensor:
        """As in BasicBlock with three convolutions: to fewer channels, 3x3, to four times as many (Fig. 5, right).

        x: (B, C_in, H, W).
        mask: of x; None: nothing is padded.
        Returns (B, C_out, H', W').
        """
        after = mask.halved() if mask and self.stride == 2 else mask
        shortcut = x if self.downsample is None else self.downsample(x, after)
        x = F.relu_(convolve(x, self.conv1, self.bn1, mask))
        x = F.relu_(convolve(zero_padding(x, mask), self.conv2, self.bn2, after))
        return F.relu_(convolve(x, self.conv3, self.bn3, after).add_(shortcut))


def _shortcut(in_channels: int, out_channels: int, stride: int, norm: Norm) -> Shortcut | None:
    if stride == 1 and in_channels == out_channels:
        return None
    return Shortcut([conv(in_channels, out_channels, 1, stride), norm(out_channels)])


class Stage(nn.ModuleList):
    """Blocks of one resolution; the first has the stride."""

    def __init__(
        self, block: type[nn.Module], in_channels: int, channels: int, depth: int, stride: int, norm: Norm
    ) -> None:
        out_channels = channels * block.expansion
        rest = [block(out_channels, channels, 1, norm) for _ in range(depth - 1)]
        super().__init__([block(in_channels, channels, stride, norm), *rest])
        self.stride = stride

    def forward(self, x: Tensor, mask: PaddingMask | None) -> tuple[Tensor, PaddingMask | None]:
        """The blocks, one after the other.

        x: (B, C_in, H, W).
        mask: of x; None: nothing is padded.
        Returns the map (B, C_out, H', W') and its mask.
        """
        for block in self:
            x = block(x, mask)
            mask = mask.halved() if mask and block.stride == 2 else mask
        return x, mask


DEPTHS = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
}


class ResNet(nn.Module):
    """Stem and four stages, whose maps are C2..C5.

    norm: `frozen` or `group`.
    width: channels of the stem.
    frozen_stages: how many of (stem, layer1, ..., layer4) are not trained.
    num_outputs: how many of C2..C5 to return, counted from C5.
    exact_padding: keep padding out of every convolution and norm.
    """

    classifier = ("fc.",)

    def __init__(
        self, name: str, norm: str, width: int, frozen_stages: int, num_outputs: int, exact_padding: bool
    ) -> None:
        super().__init__()
        block, depths = DEPTHS[name]
        make_norm: Norm = {"frozen": FrozenBatchNorm, "group": group_norm}[norm]
        widths = [width * 2**i for i in range(4)]
        out = [w * block.expansion for w in widths]
        self.conv1, self.bn1 = conv(3, width, 7, 2), make_norm(width)
        self.layer1 = Stage(block, width, widths[0], depths[0], 1, make_norm)
        self.layer2 = Stage(block, out[0], widths[1], depths[1], 2, make_norm)
        self.layer3 = Stage(block, out[1], widths[2], depths[2], 2, make_norm)
        self.layer4 = Stage(block, out[2], widths[3], depths[3], 2, make_norm)
        # The convolutions' fastest layout. With 8 channels oneDNN writes beyond its memory in it, in the backward pass
        # of a shortcut's convolution (PyTorch 2.13, seen from maps of 64x64 on).
        self.channels_last = width > 8
        self.num_outputs = num_outputs
        self.exact_padding = exact_padding
        self.out_channels = out[4 - num_outputs :]
        self._initialise()
        self._freeze(frozen_stages)

    def forward(self, images: ImageBatch) -> list[FeatureMap]:
        """The last `num_outputs` of C2..C5.

        images: normalised pixels (B, 3, H, W).
        Returns maps (B, C_i, H_i, W_i) of stride 4, 8, 16 and 32, fine to coarse; sides are rounded up.
        """
        mask = PaddingMask.of(images) if self.exact_padding else None
        # Made here, not kept: a torch.memory_format does not pickle with protocol 2, which torch.save uses.
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        pixels = images.pixels.contiguous(memory_format=layout)
        x, mask = zero_padding(pixels, mask), mask and mask.halved()
        x = F.relu_(convolve(x, self.conv1, self.bn1, mask))
        x = zero_padding(x, mask)  # after ReLU zero is max pooling's neutral element
        x, mask = F.max_pool2d(x, 3, stride=2, padding=1), mask and mask.halved()
        maps = []
        for stage, stride in zip((self.layer1, self.layer2, self.layer3, self.layer4), (4, 8, 16, 32), strict=True):
            x, mask = stage(x, mask)
            maps.append(FeatureMap(x, stride, mask))
        return maps[4 - self.num_outputs :]

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def _freeze(self, num_stages: int) -> None:
        stages = [(self.conv1, self.bn1), (self.layer1,), (self.layer2,), (self.layer3,), (self.layer4,)]
        for modules in stages[:num_stages]:
            for module in modules:
                module.requires_grad_(False)
