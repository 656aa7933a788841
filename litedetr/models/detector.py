"""The whole detector: backbone, neck, encoder, query selection, decoder, in the order of `Detector.forward`."""

from __future__ import annotations

import torch
from torch import nn

from litedetr.models.backbones import build_backbone
from litedetr.models.decoder import Decoder, DecoderLayer
from litedetr.models.denoising import Denoising
from litedetr.models.detector_config import DetectorConfig
from litedetr.models.encoder.encoder import Encoder
from litedetr.models.encoder.layers import EncoderLayer
from litedetr.models.hybrid import Hybrid
from litedetr.models.neck import Neck, num_backbone_levels
from litedetr.models.onednn_linear import use_onednn_linears
from litedetr.models.query_selection import build_query_selection
from litedetr.structures import DetectorOutput, ImageBatch, TargetBatch


class Detector(nn.Module):
    """A detection transformer whose parts `config` chooses; `forward` shows how they follow each other."""

    def __init__(self, config: DetectorConfig, num_classes: int) -> None:
        super().__init__()
        channels, levels = config.neck.channels, config.neck.num_levels
        self.config = config
        self.num_classes = num_classes
        self.backbone = build_backbone(config.backbone, num_backbone_levels(levels), config.padding == "exact")
        self.neck = Neck(config.neck, self.backbone.out_channels, config.padding)
        self.encoder = Encoder(config)
        self.query_selection = build_query_selection(config, num_classes)
        self.denoising = Denoising(config.denoising, channels, num_classes) if config.denoising.num_pairs else None
        self.hybrid = Hybrid(config) if config.hybrid.num_queries else None
        self.decoder = Decoder(config, num_classes)

    def forward(self, images: ImageBatch, targets: TargetBatch | None = None) -> DetectorOutput:
        """Detect objects.

        images: B images, pixels (B, 3, H, W) of bytes or normalised floats.
        targets: the ground truth of the images, in training only. With it the output also has the predictions of the
        queries that exist only in training: denoising ones, and one-to-many ones of H-DETR.
        Returns the predictions of every decoder layer and of the query selection.
        """
        images = images.normalised()
        pyramid = self.neck(self.backbone(images), images)
        memory = self.encoder(pyramid)
        branches = () if targets is None else self.training_branches
        queries, proposals = self.query_selection(memory, sum(branch.num_extra for branch in branches))
        training = []
        for branch in branches:
            queries, group = branch(queries, targets)
            training.append(group)
        return self.decoder(queries, memory, tuple(training)).with_proposals(proposals)

    @property
    def training_branches(self) -> tuple[Hybrid | Denoising, ...]:
        """What makes the queries that exist only in training."""
        return tuple(branch for branch in (self.hybrid, self.denoising) if branch is not None)

    def to_device(self, device: torch.device) -> Detector:
        """Move to `device`, in place, and make use of it; returns this detector.

        On a GPU convolutions get the layout of the maps that they read, once. Not on a CPU: for weights of another
        layout oneDNN may take another algorithm, whose last bits differ. On a CPU oneDNN computes the linear layers,
        but for those of the backbone: a backbone of `transformers` keeps its own.
        """
        self.to(device)
        if device.type == "cuda":
            self.use_channels_last()
        if device.type == "cpu":
            for part in self.children():
                if part is not self.backbone:
                    use_onednn_linears(part)
        return self

    def use_channels_last(self) -> None:
        """Lay out the convolutions' weights channels last, in place, if the backbone's maps are.

        Loading a state dict, copies, the optimiser's moments and files keep a tensor's layout.
        """
        if self.backbone.channels_last:
            for part in (self.backbone, self.neck):
                part.to(memory_format=torch.channels_last)

    def compile_parts(self) -> None:
        """Compile the backbone, and each layer of encoder and decoder, in place.

        All layers of a kind share one compilation. What lies between them depends on the data and is not compiled.
        """
        self.backbone.compile()
        for module in self.modules():
            if isinstance(module, (EncoderLayer, DecoderLayer)):
                module.compile()


def build_detector(config: DetectorConfig, num_classes: int) -> Detector:
    """A detector with random weights."""
    return Detector(config, num_classes)
