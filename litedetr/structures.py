"""The value objects that travel between data, model, losses and evaluation.

Legend for the whole repository: B images, S tokens over all levels, Q queries, C width, M heads, D = C / M,
L levels, P points, K classes, N objects of an image, (H_l, W_l) the size of level l.
Levels run from high resolution to low: index 0 has stride 8 (S4 in the paper), the last is the coarsest (S1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from litedetr.pixels import inside, normalised


@dataclass(frozen=True)
class ImageBatch:
    """Images of different sizes, zero-padded at the right and bottom to one size."""

    # (B, 3, H, W), zero on padding: uint8 RGB, as images are stored and travel to the device, or normalised floats. The
    # detector normalises bytes as it begins.
    pixels: Tensor
    sizes: Tensor  # (B, 2) int64, the (height, width) of every image without padding
    padded: bool  # whether any image is smaller than (H, W); known on the host, so nothing waits for the device

    def __post_init__(self) -> None:
        if self.pixels.dtype != torch.uint8 and not self.pixels.is_floating_point():
            raise TypeError(f"pixels: expected uint8 RGB or normalised floats, got {self.pixels.dtype}")

    @classmethod
    def from_images(cls, images: Sequence[Tensor], shared: bool = False) -> ImageBatch:
        """Pad images, each (3, h, w), all of bytes or all normalised, to the largest height and width among them.

        Channels lie last in memory, as in a decoded image and in fast convolutions.
        shared: in shared memory, from which another process takes them without a copy.
        """
        dtypes = {image.dtype for image in images}
        if len(dtypes) > 1:
            raise TypeError(f"images: expected one dtype, got {', '.join(sorted(map(str, dtypes)))}")
        sizes = [tuple(image.shape[-2:]) for image in images]
        height, width = (max(side) for side in zip(*sizes, strict=True))
        padded = any(size != (height, width) for size in sizes)
        pixels = _zeros((len(images), height, width, 3), images[0], shared).permute(0, 3, 1, 2)
        for slot, image, (h, w) in zip(pixels, images, sizes, strict=True):
            slot[:, :h, :w] = image
        return cls(pixels, torch.tensor(sizes, device=pixels.device), padded)

    def __len__(self) -> int:
        return len(self.pixels)

    def normalised(self) -> ImageBatch:
        """With normalised floats in place of bytes, still zero on padding; floats stay as they are."""
        if self.pixels.is_floating_point():
            return self
        pixels = normalised(self.pixels)
        if self.padded and pixels.device.type == "cpu":  # sizes are at hand, and rows are written faster than masks
            for image, (h, w) in zip(pixels, self.sizes.tolist(), strict=True):
                image[:, h:] = 0
                image[:, :h, w:] = 0
        elif self.padded:
            pixels.masked_fill_(~inside(self.sizes, *pixels.shape[-2:]), 0)
        return replace(self, pixels=pixels)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ImageBatch:
        return replace(
            self,
            pixels=self.pixels.to(device, non_blocking=non_blocking),
            sizes=self.sizes.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> ImageBatch:
        """A copy in page-locked memory, from which a copy to a GPU does not stop the host. DataLoader calls it."""
        return replace(self, pixels=self.pixels.pin_memory(), sizes=self.sizes.pin_memory())


def _zeros(shape: tuple[int, ...], like: Tensor, shared: bool) -> Tensor:
    if not shared:
        return like.new_zeros(shape)
    storage = torch.UntypedStorage._new_shared(math.prod(shape) * like.element_size())  # which the system zeroes
    return like.new_empty(0).set_(storage, 0, shape)


@dataclass(frozen=True)
class Target:
    """The objects of one image."""

    labels: Tensor  # (N,) int64, contiguous class indices in [0, K)
    boxes: Tensor  # (N, 4) float, (cx, cy, w, h) relative to the image (without padding), in [0, 1]
    image_id: int  # in the annotation file
    original_size: tuple[int, int]  # (height, width) before any transform; detections are reported in its pixels

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Share:
    """Which images of a whole batch these are."""

    first: int  # index of the first of them
    total: int  # images of the whole batch
    seed: int  # of the whole batch's noise


@dataclass(frozen=True)
class TargetBatch:
    """The targets of B images, packed, with what couples the images.

    Two tensors hold all N objects, image by image, so that two copies bring a batch to the device. All that the host
    asks for is known on the host, so nothing waits for the device.
    """

    numbers: Tensor  # (3, N) int64: an object's label, its image's index in the batch, its place among the image's
    boxes: Tensor  # (N, 4), as in Target
    counts: tuple[int, ...]  # objects of each image
    image_ids: tuple[int, ...]  # as in Target
    original_sizes: tuple[tuple[int, int], ...]  # as in Target
    # The losses' normaliser, and what decides the number of denoising groups. Both default to this batch's own; a
    # trainer that accumulates gradients or runs on several ranks replaces them by those of the whole batch, so that the
    # gradient is the large batch's own.
    num_boxes: float
    max_objects: int
    # This batch's place in the whole one, by which it gets the noise that the whole one would draw for it. None: it is
    # the whole, and draws from PyTorch's global generator.
    share: Share | None = None

    @classmethod
    def from_targets(cls, targets: Sequence[Target]) -> TargetBatch:
        """Pack the targets of at least one image."""
        counts = tuple(len(target) for target in targets)
        labels = torch.cat([target.labels for target in targets])
        image = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        place = torch.cat([torch.arange(count) for count in counts])
        return cls(
            numbers=torch.stack([labels, image.to(labels.device), place.to(labels.device)]),
            boxes=torch.cat([target.boxes for target in targets]),
            counts=counts,
            image_ids=tuple(target.image_id for target in targets),
            original_sizes=tuple(target.original_size for target in targets),
            num_boxes=float(max(sum(counts), 1)),
            max_objects=max(counts),
        )

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def labels(self) -> Tensor:
        """(N,) classes of all objects."""
        return self.numbers[0]

    @property
    def slots(self) -> tuple[Tensor, Tensor]:
        """(N,) each, the image and the place of every object: an index into tensors (B, at least max_objects, ...)."""
        return self.numbers[1], self.numbers[2]

    @property
    def items(self) -> tuple[Target, ...]:
        """The targets image by image, as views."""
        parts = zip(self.labels.split(self.counts), self.boxes.split(self.counts), strict=True)
        rest = zip(self.image_ids, self.original_sizes, strict=True)
        return tuple(Target(*part, *others) for part, others in zip(parts, rest, strict=True))

    def padded(self, num_slots: int) -> tuple[Tensor, Tensor, Tensor]:
        """Labels (B, num_slots), boxes (B, num_slots, 4), which slots hold an object (B, num_slots); others: zero."""
        shape = (len(self), num_slots)
        labels = self.labels.new_zeros(shape).index_put(self.slots, self.labels)
        boxes = self.boxes.new_zeros(*shape, 4).index_put(self.slots, self.boxes)
        exists = torch.ones_like(self.labels, dtype=torch.bool)
        real = torch.zeros_like(labels, dtype=torch.bool).index_put(self.slots, exists)
        return labels, boxes, real

    def without_classes(self) -> TargetBatch:
        """Every object of class 0: what predictions that only tell objects from background are matched with."""
        return replace(self, numbers=torch.cat([torch.zeros_like(self.numbers[:1]), self.numbers[1:]]))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> TargetBatch:
        return self._map(lambda x: x.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> TargetBatch:
        """A copy in page-locked memory, from which a copy to a GPU does not stop the host. DataLoader calls it."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> TargetBatch:
        return replace(self, numbers=change(self.numbers), boxes=change(self.boxes))


@dataclass(frozen=True)
class FeaturePyramid:
    """Tokens of all levels, flattened and concatenated from high resolution to low."""

    tokens: Tensor  # (B, S, C)
    position: Tensor  # (B, S, C), image position and level embedding
    valid_sizes: Tensor | None  # (B, L, 2) int64, unpadded (height, width) of each level; None if nothing is padded
    valid_ratios: Tensor  # (B, L, 2), valid (width, height) over the level's (W_l, H_l)
    padding_mask: Tensor | None  # (B, S) bool, True on padding; None if nothing is padded
    shapes: tuple[tuple[int, int], ...]  # ((H_0, W_0), ...), Python ints; symbols while the detector is exported

    @property
    def level_sizes(self) -> list[int]:
        """Number of tokens of every level."""
        return [h * w for h, w in self.shapes]

    def with_tokens(self, tokens: Tensor) -> FeaturePyramid:
        return replace(self, tokens=tokens)

    def from_level(self, first: int) -> FeaturePyramid:
        """The pyramid of only the levels [first, L)."""
        start = sum(self.level_sizes[:first])
        return FeaturePyramid(
            tokens=self.tokens[:, start:],
            position=self.position[:, start:],
            valid_sizes=None if self.valid_sizes is None else self.valid_sizes[:, first:],
            valid_ratios=self.valid_ratios[:, first:],
            padding_mask=None if self.padding_mask is None else self.padding_mask[:, start:],
            shapes=self.shapes[first:],
        )


@dataclass(frozen=True)
class Queries:
    """Decoder input."""

    content: Tensor  # (B, Q, C)
    reference_logit: Tensor  # (B, Q, 4), reference boxes, cxcywh in logit space
    valid: Tensor | None = None  # (B, Q) bool, False on padding, if an image has fewer tokens than Q; None: all valid
    position: Tensor | None = None  # (B, Q, C), of all layers; None: each layer embeds its reference boxes

    def split(self, num_first: int) -> tuple[Queries, Queries]:
        """The first `num_first` queries, and the rest."""
        tensors = (self.content, self.reference_logit, self.valid, self.position)
        first = (None if x is None else x[:, :num_first] for x in tensors)
        rest = (None if x is None else x[:, num_first:] for x in tensors)
        return Queries(*first), Queries(*rest)


@dataclass(frozen=True)
class Predictions:
    """What the queries predict."""

    class_logits: Tensor  # (B, Q, K)
    boxes: Tensor  # (B, Q, 4), cxcywh relative to the image
    foreground: bool = False  # class 0 means an object of any class (Deformable DETR's proposals)
    valid: Tensor | None = None  # (B, Q) bool, False on padding: matched to nothing, no detection; None: all valid

    def split(self, num_first: int) -> tuple[Predictions, Predictions]:
        """The predictions of the first `num_first` queries, and of the rest."""
        return self._part(slice(num_first)), self._part(slice(num_first, None))

    def _part(self, part: slice) -> Predictions:
        valid = None if self.valid is None else self.valid[:, part]
        return replace(self, class_logits=self.class_logits[:, part], boxes=self.boxes[:, part], valid=valid)


@dataclass(frozen=True)
class DenoisingOutput:
    """What the decoder made of the denoising queries."""

    layers: tuple[Predictions, ...]  # one for each layer
    num_groups: int


@dataclass(frozen=True)
class OneToManyOutput:
    """What the decoder made of the one-to-many queries."""

    layers: tuple[Predictions, ...]  # one for each layer
    num_repeats: int


@dataclass(frozen=True)
class DetectorOutput:
    """All that the detector returns."""

    layers: tuple[Predictions, ...]  # of every decoder layer, the last one the detector's answer
    proposals: Predictions | None = None  # of the query selection
    denoising: DenoisingOutput | None = None  # in training only
    one_to_many: OneToManyOutput | None = None  # in training only

    @property
    def predictions(self) -> Predictions:
        return self.layers[-1]

    def with_proposals(self, proposals: Predictions) -> DetectorOutput:
        return replace(self, proposals=proposals)


@dataclass(frozen=True)
class Detections:
    """Detections of one image, best first."""

    scores: Tensor  # (N,)
    labels: Tensor  # (N,) int64
    boxes: Tensor  # (N, 4) xyxy in original pixels

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, threshold: float) -> Detections:
        """Those of at least this score."""
        return self._where(self.scores >= threshold)

    def best(self, number: int) -> Detections:
        """The first `number`."""
        return self._where(slice(number))

    def within(self, size: tuple[int, int]) -> Detections:
        """Boxes clipped to an image of (height, width) `size`, without those of which nothing lies in it."""
        limits = self.boxes.new_tensor(size[::-1] * 2)
        boxes = self.boxes.clamp(min=0).minimum(limits)
        return replace(self, boxes=boxes)._where((boxes[:, 2:] > boxes[:, :2]).all(1))

    def rows(self) -> Iterator[tuple[tuple[float, float, float, float], int, float]]:
        """((x, y, width, height), label, score) of each detection, as Python's numbers."""
        columns = (self.boxes.tolist(), self.labels.tolist(), self.scores.tolist())
        for (x1, y1, x2, y2), label, score in zip(*columns, strict=True):
            yield (x1, y1, x2 - x1, y2 - y1), label, score

    def _where(self, index: Tensor | slice) -> Detections:
        return Detections(self.scores[index], self.labels[index], self.boxes[index])

    def to(self, device: torch.device | str) -> Detections:
        return Detections(self.scores.to(device), self.labels.to(device), self.boxes.to(device))
