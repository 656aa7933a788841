"""The whole detector; its forward pass reads like the paper's figure."""

from __future__ import annotations

from torch import nn

from litedetr.models.backbones import build_backbone
from litedetr.models.config import DetectorConfig
from litedetr.models.decoder import Decoder, DecoderLayer
from litedetr.models.denoising import Denoising
from litedetr.models.encoder import EncoderLayer, build_encoder
from litedetr.models.neck import Neck, num_backbone_levels
from litedetr.models.query_selection import QuerySelection
from litedetr.structures import DetectorOutput, ImageBatch, TargetBatch


class Detector(nn.Module):
    """forward(images, targets) -> DetectorOutput; targets in training only, for the denoising queries."""

    def __init__(self, config: DetectorConfig, num_classes: int) -> None:
        super().__init__()
        channels, levels = config.neck.channels, config.neck.num_levels
        self.config = config
        self.num_classes = num_classes
        self.backbone = build_backbone(config.backbone, num_backbone_levels(levels), config.padding == "exact")
        self.neck = Neck(config.neck, self.backbone.out_channels, config.padding)
        self.encoder = build_encoder(config)
        self.query_selection = QuerySelection(channels, config.query_selection.num_queries, num_classes, config.padding)
        self.denoising = Denoising(config.denoising, channels, num_classes) if config.denoising.num_pairs else None
        self.decoder = Decoder(config, num_classes)

    def forward(self, images: ImageBatch, targets: TargetBatch | None = None) -> DetectorOutput:
        pyramid = self.neck(self.backbone(images), images)
        memory = self.encoder(pyramid)
        queries, proposals = self.query_selection(memory)
        noised = self.denoising(targets) if self.denoising is not None and targets is not None else None
        return self.decoder(queries, memory, noised).with_proposals(proposals)

    def compile_parts(self) -> None:
        """Compile the backbone, and each layer of encoder and decoder, in place.

        Layers are alike, so one compilation of each kind serves them all; what lies between depends on the data.
        """
        self.backbone.compile()
        for module in self.modules():
            if isinstance(module, (EncoderLayer, DecoderLayer)):
                module.compile()


def build_detector(config: DetectorConfig, num_classes: int) -> Detector:
    """A detector with random weights."""
    return Detector(config, num_classes)
