"""Neck: backbone maps of several widths -> one FeaturePyramid of width C (Deformable DETR, appendix A.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from litedetr.models.backbones import FeatureMap
from litedetr.models.backbones.padding import MaskedGroupNorm, PaddingMask, zero_padding
from litedetr.models.detector_config import NeckConfig, Padding
from litedetr.models.position import pixel_embedding
from litedetr.structures import FeaturePyramid, ImageBatch

MAX_BACKBONE_LEVELS = 4
BACKBONE_HALVINGS = 5  # a backbone ends at stride 32
Shapes = tuple[tuple[int, int], ...]


def num_backbone_levels(num_levels: int) -> int:
    """How many of L levels are the backbone's; at least one more is made by a stride-2 convolution."""
    return max(1, min(num_levels - 1, MAX_BACKBONE_LEVELS))


def level_shapes(num_levels: int, image_size: tuple[int, int]) -> Shapes:
    """(H, W) of the levels of an image of (height, width), fine to coarse; every halving rounds up."""
    sizes, size = [], image_size
    for _ in range(BACKBONE_HALVINGS + num_levels - num_backbone_levels(num_levels)):
        size = tuple(-(-side // 2) for side in size)
        sizes.append(size)
    return tuple(sizes[-num_levels:])


class Projection(nn.Module):
    """Convolution to C channels, 1x1 or 3x3 with stride 2, and group norm."""

    def __init__(self, in_channels: int, config: NeckConfig, stride: int = 1) -> None:
        super().__init__()
        kernel = 1 if stride == 1 else 3
        self.conv = nn.Conv2d(in_channels, config.channels, kernel, stride, padding=kernel // 2)
        self.norm = MaskedGroupNorm(config.norm_groups, config.channels)
        self.stride = stride
        nn.init.xavier_uniform_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)

    def forward(self, feature: FeatureMap) -> FeatureMap:
        """norm(conv(x)), with padding kept out of both if the feature has a mask.

        feature: values (B, C_in, H, W).
        Returns values (B, C, H, W), or half as high and wide, rounded up, with stride 2.
        """
        mask = feature.mask
        x = feature.values if self.stride == 1 else zero_padding(feature.values, mask)
        if mask and self.stride == 2:
            mask = mask.halved()
        return FeatureMap(self.norm(self.conv(x), mask), feature.stride * self.stride, mask)


class Neck(nn.Module):
    """Brings the backbone's maps to C channels and makes coarser levels from the last one.

    The first extra level comes from the backbone's last map itself, further ones from the level before.
    """

    def __init__(self, config: NeckConfig, in_channels: list[int], padding: Padding) -> None:
        super().__init__()
        self.padding = padding
        num_extra = config.num_levels - len(in_channels)
        self.projections = nn.ModuleList(Projection(width, config) for width in in_channels)
        extra_in = [in_channels[-1], *[config.channels] * num_extra][:num_extra]
        self.extra = nn.ModuleList(Projection(width, config, stride=2) for width in extra_in)
        self.level_embedding = nn.Parameter(torch.randn(config.num_levels, config.channels))

    def forward(self, features: list[FeatureMap], images: ImageBatch) -> FeaturePyramid:
        """The L levels as one sequence of S tokens, with what is known of their position.

        features: the backbone's maps, values (B, C_i, H_i, W_i), fine to coarse.
        images: the batch that they were made of, for the images' sizes without padding.
        Returns a pyramid of tokens (B, S, C), fine to coarse; its position is the sine embedding of the pixel plus the
            learned embedding of the level (Deformable DETR, section 4.1).
        """
        levels = [project(feature) for project, feature in zip(self.projections, features, strict=True)]
        last = features[-1]
        for project in self.extra:
            last = project(last)
            levels.append(last)
        return self._flatten(levels, images)

    def _flatten(self, levels: list[FeatureMap], images: ImageBatch) -> FeaturePyramid:
        maps = [level.values for level in levels]
        shapes = tuple((x.shape[-2], x.shape[-1]) for x in maps)
        sizes = torch.stack([self._valid_size(level, images) for level in levels], dim=1)  # (B, L, 2)
        dtype = torch.promote_types(maps[0].dtype, torch.float32)  # positions are too fine for half precision
        position = [
            pixel_embedding(shape, sizes[:, i], x.shape[1], dtype) + self.level_embedding[i]
            for i, (shape, x) in enumerate(zip(shapes, maps, strict=True))
        ]
        return FeaturePyramid(
            tokens=torch.cat([x.flatten(2).transpose(1, 2) for x in maps], dim=1),
            position=torch.cat(position, dim=1),
            valid_sizes=sizes if images.padded else None,
            valid_ratios=_valid_ratios(sizes.to(dtype), shapes),
            padding_mask=_padding_mask(sizes, shapes) if images.padded else None,
            shapes=shapes,
        )

    def _valid_size(self, level: FeatureMap, images: ImageBatch) -> Tensor:
        """(B, 2), (height, width) of the level without padding.

        The published code resizes the image's mask to the level by nearest pixels.
        """
        if self.padding == "exact":
            return -(-images.sizes // level.stride)
        sides = zip(images.sizes.unbind(1), level.values.shape[-2:], images.pixels.shape[-2:], strict=True)
        return torch.stack([-(-valid * of_level // of_image) for valid, of_level, of_image in sides], dim=1)


def _valid_ratios(sizes: Tensor, shapes: tuple[tuple[int, int], ...]) -> Tensor:
    """sizes (B, L, 2), (height, width) -> (B, L, 2), (width, height)."""
    ratios = [torch.stack([sizes[:, i, 1] / w, sizes[:, i, 0] / h], dim=-1) for i, (h, w) in enumerate(shapes)]
    return torch.stack(ratios, dim=1)


def _padding_mask(sizes: Tensor, shapes: tuple[tuple[int, int], ...]) -> Tensor:
    """(B, S) bool, True on padding."""
    masks = [~PaddingMask(sizes[:, i]).valid(*shape).flatten(1) for i, shape in enumerate(shapes)]
    return torch.cat(masks, dim=1)
