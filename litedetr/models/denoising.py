"""Contrastive denoising (DINO, section 3.3): noised ground truth that the decoder learns to restore or to reject."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from litedetr.boxes import cxcywh_to_xyxy, inverse_sigmoid, xyxy_to_cxcywh
from litedetr.models.detector_config import DenoisingConfig
from litedetr.models.training_queries import TrainingQueries
from litedetr.structures import DenoisingOutput, DetectorOutput, Predictions, Queries, Share, TargetBatch


@dataclass(frozen=True)
class DenoisingQueries(TrainingQueries):
    """Noised ground truth, in slots [group, positive | negative, object]."""

    # content and noised reference boxes, (B, G * 2 * N_max, ...); valid: False in the slots beyond an image's objects
    queries: Queries
    num_groups: int  # G, each with the positives and the negatives of all objects
    sees_own = True

    def attention_mask(self) -> Tensor:
        """(B, Q, Q): a denoising query attends to the real slots of its own group.

        A padding slot attends to itself too, since a softmax over nothing is NaN.
        """
        num_slots, valid = len(self), self.queries.valid
        group = torch.arange(num_slots, device=valid.device) // (num_slots // self.num_groups)
        same = group[:, None] == group[None, :]
        return same & (valid[:, None, :] | torch.eye(num_slots, dtype=torch.bool, device=valid.device))

    def add_to(self, output: DetectorOutput, layers: tuple[Predictions, ...]) -> DetectorOutput:
        return replace(output, denoising=DenoisingOutput(layers, self.num_groups))


@dataclass(frozen=True)
class Noise:
    """Random numbers for Q slots of B images."""

    chance: Tensor  # (B, Q) in [0, 1)
    label: Tensor  # (B, Q) any class
    sign: Tensor  # (B, Q, 4), -1 or 1
    distance: Tensor  # (B, Q, 4) in [0, 1)

    @classmethod
    def draw(cls, boxes: Tensor, num_classes: int, share: Share | None) -> Noise:
        """For boxes (B, Q, 4). A share draws for the whole batch and keeps its own, so that an image's noise is the
        same on any number of processes; on the device, without waiting for it.
        """
        first, total, generator = 0, len(boxes), None
        if share is not None:
            first, total = share.first, share.total
            generator = torch.Generator(boxes.device).manual_seed(share.seed)
        own, slots = slice(first, first + len(boxes)), (total, boxes.shape[1])
        kind = {"device": boxes.device, "generator": generator}
        chance = torch.rand(slots, **kind)[own]
        label = torch.randint(num_classes, slots, **kind)[own]
        sign = torch.randint(2, (*slots, 4), dtype=boxes.dtype, **kind)[own] * 2 - 1
        distance = torch.rand((*slots, 4), dtype=boxes.dtype, **kind)[own]
        return cls(chance, label, sign, distance)


class Denoising(nn.Module):
    """Makes the denoising queries; its parameters embed their labels."""

    num_extra = 0  # queries that query selection makes beyond the detector's own

    def __init__(self, config: DenoisingConfig, channels: int, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        self.labels = nn.Embedding(num_classes, channels)

    def forward(self, queries: Queries, targets: TargetBatch) -> tuple[Queries, DenoisingQueries]:
        """Noise the ground truth.

        queries: the detector's own, (B, Q, ...), which stay as they are.
        targets: ground truth of B images. Each group holds every object twice: as a positive, its corners moved by less
        than half its size, and as a negative, moved by half to one size (times box_noise). A group has as many slots as
        the image of the batch with the most objects needs, and at least one, so that the label embedding always gets a
        gradient. Unused slots are padding.
        Returns `queries` and the denoising queries.
        """
        num_slots = max(targets.max_objects, 1)
        num_groups = max(1, self.config.num_pairs // num_slots)
        labels, boxes, valid = targets.padded(num_slots)
        repeat = (1, 2 * num_groups)
        labels, valid = labels.repeat(repeat), valid.repeat(repeat)
        boxes = boxes.repeat(*repeat, 1)
        negative = torch.arange(2, device=boxes.device).repeat_interleave(num_slots).repeat(num_groups).bool()
        noise = Noise.draw(boxes, self.num_classes, targets.share)
        content = self.labels(self._flip(labels, noise))
        reference = inverse_sigmoid(self._jitter(boxes, negative, noise))
        return queries, DenoisingQueries(Queries(content, reference, valid), num_groups)

    def _flip(self, labels: Tensor, noise: Noise) -> Tensor:
        return torch.where(noise.chance < self.config.label_flip, noise.label, labels)

    def _jitter(self, boxes: Tensor, negative: Tensor, noise: Noise) -> Tensor:
        """boxes (B, Q, 4) cxcywh -> the same with moved corners, clipped to the image."""
        distance = noise.distance + negative.unsqueeze(-1)
        half = boxes[..., 2:].repeat(1, 1, 2) / 2
        corners = cxcywh_to_xyxy(boxes) + noise.sign * distance * half * self.config.box_noise
        return xyxy_to_cxcywh(corners.clamp(0, 1))
